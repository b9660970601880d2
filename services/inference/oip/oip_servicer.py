"""The Open Inference Protocol on the node: find the model, have it answer, name who did.

Initial metadata names node and version, and goes out with an answer only, so that a refusal stays
one that a proxy may try on another node. What the node does not do answers UNIMPLEMENTED by name.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc
from opentelemetry import trace
from opentelemetry.trace import Tracer

from mesh.deadline import remaining_s
from mesh.errors import ModelNotReady, RingmeshError
from mesh.infer_stream import answer_stream, wants_grpc_errors
from mesh.oip_service import INFER_EXTENSIONS, OipMethods, method_extensions, server_metadata
from mesh.pb import inference_pb2 as oip
from services.inference.generate_servicer import NODE_HEADER, VERSION_HEADER
from services.inference.models.choice import choose_version, requested_version
from services.inference.models.loaded_model import LoadedModel
from services.inference.models.repository import Repository
from services.inference.models.state import ModelState, ModelStatus
from services.inference.models.table import ModelTable
from services.inference.oip.answer import Answering, signature_of
from services.inference.oip.configuration import model_config
from services.inference.oip.description import memory_usage, model_metadata
from services.inference.oip.repository_servicer import RepositoryServicer
from services.inference.session import session_of


class OipServicer(RepositoryServicer, OipMethods):
    """Serves `inference.GRPCInferenceService`."""

    def __init__(
        self, node: str, models: ModelTable, repository: Repository, tracer: Tracer
    ) -> None:
        super().__init__(repository)
        self._node = node
        self._models = models
        self._answering = Answering(models, tracer)

    async def ServerMetadata(
        self, request: oip.ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> oip.ServerMetadataResponse:
        """Name, version and extensions."""
        del request, context
        return server_metadata((*INFER_EXTENSIONS, *method_extensions(type(self))))

    async def ModelReady(
        self, request: oip.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelReadyResponse:
        """Whether the model would answer; an unknown one is NOT_FOUND.

        Asked every few seconds by whoever watches it: one that is paged out is not brought back.
        """
        try:
            model = self._models.find(request.name, request.version, routed_version(context))
        except ModelNotReady:
            return oip.ModelReadyResponse(ready=False)
        if model is not None:
            self._mark_span(model)
            await self._send_receipt(model, context)
        return oip.ModelReadyResponse(ready=True)

    async def ModelMetadata(
        self, request: oip.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelMetadataResponse:
        """The model's inputs and outputs."""
        model = await self._resolve(request.name, request.version, context)
        await self._send_receipt(model, context)
        return model_metadata(model, signature_of(model), self._ready_versions(model.name))

    async def ModelConfig(
        self, request: oip.ModelConfigRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelConfigResponse:
        """The model's configuration."""
        model = await self._resolve(request.name, request.version, context)
        await self._send_receipt(model, context)
        return model_config(model, signature_of(model))

    async def ModelInfer(
        self, request: oip.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelInferResponse:
        """Runs the model."""
        model = await self._resolve(request.model_name, request.model_version, context)
        response = await self._answering.whole(
            model, request, remaining_s(context), session_of(context)
        )
        await self._send_receipt(model, context)
        return response

    async def ModelStreamInfer(
        self,
        request_iterator: AsyncIterator[oip.ModelInferRequest],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        """Runs a model for each message; language models answer in pieces."""

        async def respond(
            request: oip.ModelInferRequest,
        ) -> AsyncGenerator[oip.ModelInferResponse, None]:
            model = await self._resolve(request.model_name, request.model_version, context)
            made = self._answering.pieces(model, request, remaining_s(context), session_of(context))
            async with aclosing(made) as responses:
                async for response in responses:
                    yield response

        def is_decoupled(request: oip.ModelInferRequest) -> bool:
            name, version = request.model_name, request.model_version
            try:
                model = self._models.find(name, version, routed_version(context))
                # Of one that is paged out nothing is known: its answers come in their turn.
                return model is not None and signature_of(model).is_decoupled
            except RingmeshError:  # told in its turn
                return False

        answers = answer_stream(
            request_iterator,
            respond,
            is_decoupled=is_decoupled,
            ends_at_failure=wants_grpc_errors(context.invocation_metadata()),
        )
        async with aclosing(answers) as responses:
            async for response in responses:
                yield response

    async def ModelStatistics(
        self, request: oip.ModelStatisticsRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelStatisticsResponse:
        """What the ready versions have done here: of all models, of one, or one version alone."""
        del context
        asked = requested_version(request.name, request.version, None) if request.name else None
        ready = [each for each in self._models.statuses() if each.state is ModelState.READY]
        if asked is not None:
            choose_version(self._models.statuses(), *asked)  # says why where there is none
            ready = [each for each in ready if _is_meant(each, *asked)]
        return oip.ModelStatisticsResponse(model_stats=map(self._counts, ready))

    def _counts(self, status: ModelStatus) -> oip.ModelStatistics:
        counts = self._models.statistics(status.model, status.version).snapshot()
        loaded = self._models.find(status.model, str(status.version), None)
        counts.memory_usage.append(memory_usage(status, loaded))
        return counts

    async def _resolve(
        self, name: str, version: str, context: grpc.aio.ServicerContext
    ) -> LoadedModel:
        routed, timeout_s = routed_version(context), remaining_s(context)
        model: LoadedModel = await self._models.resolve(name, version, routed, timeout_s)
        self._mark_span(model)
        return model

    def _mark_span(self, model: LoadedModel) -> None:
        span = trace.get_current_span()
        span.set_attribute("ringmesh.node", self._node)
        span.set_attribute("ringmesh.model", model.name)
        span.set_attribute("ringmesh.version", model.version)

    def _ready_versions(self, model: str) -> list[int]:
        return [
            status.version
            for status in self._models.statuses()
            if status.model == model and status.state is ModelState.READY
        ]

    async def _send_receipt(self, model: LoadedModel, context: grpc.aio.ServicerContext) -> None:
        await context.send_initial_metadata(
            ((NODE_HEADER, self._node), (VERSION_HEADER, str(model.version)))
        )


def routed_version(context: grpc.aio.ServicerContext) -> str | None:
    """The version that the mesh's route has chosen."""
    for key, value in context.invocation_metadata() or ():
        if key == VERSION_HEADER and isinstance(value, str):
            return value
    return None


def _is_meant(status: ModelStatus, model: str, version: int | None) -> bool:
    return status.model == model and version in (None, status.version)
