"""The Open Inference Protocol over gRPC: each method asks the dataplane and hands on its answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TypeVar

import grpc

from mesh.infer_stream import answer_stream, wants_grpc_errors
from mesh.oip_service import (
    INFER_EXTENSIONS,
    REST_EXTENSIONS,
    OipMethods,
    method_extensions,
    server_metadata,
)
from mesh.pb import inference_pb2 as oip
from services.gateway.caller import Caller, caller_from_metadata
from services.gateway.dataplane import Dataplane
from services.gateway.node_client import Answer
from services.gateway.oip.administration_servicer import AdministrationServicer
from services.gateway.oip.setting import ServerSettings
from services.gateway.oip.shared_memory_servicer import SharedMemoryServicer
from services.gateway.repository import FleetRepository
from services.gateway.shared_memory import SharedMemory

M = TypeVar("M")


class OipServicer(AdministrationServicer, SharedMemoryServicer, OipMethods):
    """Serves `inference.GRPCInferenceService`."""

    def __init__(
        self,
        dataplane: Dataplane,
        repository: FleetRepository,
        settings: ServerSettings,
        memory: SharedMemory,
    ) -> None:
        AdministrationServicer.__init__(self, repository, settings)
        SharedMemoryServicer.__init__(self, memory)
        self._dataplane = dataplane

    async def ServerMetadata(
        self, request: oip.ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> oip.ServerMetadataResponse:
        """Name, version and extensions."""
        del request, context
        return describe_server()

    async def ModelReady(
        self, request: oip.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelReadyResponse:
        """Whether a node would answer for the model."""
        ready = await self._dataplane.is_ready(request.name, request.version, _caller(context))
        return oip.ModelReadyResponse(ready=ready)

    async def ModelMetadata(
        self, request: oip.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelMetadataResponse:
        """The model's inputs and outputs."""
        answer = await self._dataplane.metadata(request.name, request.version, _caller(context))
        return await _hand_on(answer, context)

    async def ModelConfig(
        self, request: oip.ModelConfigRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelConfigResponse:
        """The model's configuration."""
        answer = await self._dataplane.config(request.name, request.version, _caller(context))
        return await _hand_on(answer, context)

    async def ModelInfer(
        self, request: oip.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelInferResponse:
        """Runs a model."""
        answer = await self._dataplane.infer(request, _caller(context))
        return await _hand_on(answer, context)

    async def ModelStreamInfer(
        self,
        request_iterator: AsyncIterator[oip.ModelInferRequest],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        """Runs a model for each message; language models answer in pieces."""

        def respond(
            request: oip.ModelInferRequest,
        ) -> AsyncGenerator[oip.ModelInferResponse, None]:
            return self._dataplane.pieces(request, _caller(context))

        answers = answer_stream(
            request_iterator,
            respond,
            is_decoupled=self._dataplane.is_decoupled,
            ends_at_failure=wants_grpc_errors(context.invocation_metadata()),
        )
        async with aclosing(answers) as responses:
            async for response in responses:
                yield response

    async def ModelStatistics(
        self, request: oip.ModelStatisticsRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelStatisticsResponse:
        """Counts and durations over all nodes."""
        del context
        return await self._dataplane.statistics(request.name, request.version)


def describe_server() -> oip.ServerMetadataResponse:
    """Name, version and extensions of the gateway, whose two listeners offer the same."""
    methods = method_extensions(OipServicer)
    return server_metadata((*INFER_EXTENSIONS, *REST_EXTENSIONS, *methods))


def _caller(context: grpc.aio.ServicerContext) -> Caller:
    return caller_from_metadata(context.invocation_metadata(), context)


async def _hand_on(answer: Answer[M], context: grpc.aio.ServicerContext) -> M:
    await context.send_initial_metadata(tuple(answer.receipt.items()))
    return answer.message
