"""The Open Inference Protocol on the node: parse, ask the model, render.

Answers always carry their tensors as raw bytes, which is the only form that stock clients read.
Initial metadata names node and version, and goes out with an answer only, so that a refusal stays
one that a proxy may try on another node. What the node does not do answers UNIMPLEMENTED by name.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import grpc
from opentelemetry import trace
from opentelemetry.trace import Tracer

from mesh.deadline import remaining_s
from mesh.errors import FailedPrecondition, ModelNotReady, Unimplemented
from mesh.pb import inference_pb2 as oip
from mesh.tensor import Tensor, validate_request
from services.inference import oip_text
from services.inference.generate_servicer import NODE_HEADER, VERSION_HEADER
from services.inference.llm.model import LoadedLanguageModel
from services.inference.model_choice import choose_version, requested_version
from services.inference.model_state import ModelState, ModelStatus
from services.inference.model_table import LoadedModel, ModelTable
from services.inference.oip_description import model_config, model_metadata, server_metadata
from services.inference.oip_request import check_inputs, requested_outputs
from services.inference.tensor_model import Signature, TensorModel
from services.inference.timing import Timing

SERVICE = "inference.GRPCInferenceService"

_NOT_OFFERED = frozenset(
    method.name for method in oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
)


class OipServicer:
    """Serves `inference.GRPCInferenceService`."""

    def __init__(self, node: str, models: ModelTable, tracer: Tracer) -> None:
        self._node = node
        self._models = models
        self._tracer = tracer

    def __getattr__(self, name: str) -> Any:
        if name in _NOT_OFFERED:
            return _not_offered(name)
        raise AttributeError(name)

    async def ServerLive(
        self, request: oip.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> oip.ServerLiveResponse:
        """The process answers."""
        del request, context
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: oip.ServerReadyRequest, context: grpc.aio.ServicerContext
    ) -> oip.ServerReadyResponse:
        """The node takes calls; whether a model answers is that model's own state."""
        del request, context
        return oip.ServerReadyResponse(ready=True)

    async def ServerMetadata(
        self, request: oip.ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> oip.ServerMetadataResponse:
        """Name, version and extensions."""
        del request, context
        return server_metadata()

    async def ModelReady(
        self, request: oip.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelReadyResponse:
        """Whether the model would answer; an unknown one is NOT_FOUND."""
        try:
            model = self._resolve(request.name, request.version, context)
        except ModelNotReady:
            return oip.ModelReadyResponse(ready=False)
        await self._send_receipt(model, context)
        return oip.ModelReadyResponse(ready=True)

    async def ModelMetadata(
        self, request: oip.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelMetadataResponse:
        """The model's inputs and outputs."""
        model = self._resolve(request.name, request.version, context)
        await self._send_receipt(model, context)
        return model_metadata(model, signature_of(model), self._ready_versions(model.name))

    async def ModelConfig(
        self, request: oip.ModelConfigRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelConfigResponse:
        """The model's configuration."""
        model = self._resolve(request.name, request.version, context)
        await self._send_receipt(model, context)
        return model_config(model, signature_of(model))

    async def ModelInfer(
        self, request: oip.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelInferResponse:
        """Runs the model."""
        model = self._resolve(request.model_name, request.model_version, context)
        with self._models.statistics(model.name, model.version).measure() as measured:
            response, timing = await self._answer(model, request, remaining_s(context))
            measured.succeed(timing)
        await self._send_receipt(model, context)
        return response

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
        counts = (self._models.statistics(each.model, each.version).snapshot() for each in ready)
        return oip.ModelStatisticsResponse(model_stats=counts)

    async def _answer(
        self, model: LoadedModel, request: oip.ModelInferRequest, timeout_s: float | None
    ) -> tuple[oip.ModelInferResponse, Timing]:
        signature = signature_of(model)
        tensors = validate_request(request)
        check_inputs(tensors, signature, model.name)
        wanted = requested_outputs(request, tensors, signature)
        outputs, facts, timing = await self._run(model, tensors, request.parameters, timeout_s)
        return make_response(request.id, model, _chosen(outputs, wanted), facts), timing

    async def _run(
        self,
        model: LoadedModel,
        tensors: tuple[Tensor, ...],
        parameters: Mapping[str, oip.InferParameter],
        timeout_s: float | None,
    ) -> tuple[Sequence[Tensor], Mapping[str, int | str], Timing]:
        if isinstance(model, LoadedLanguageModel):
            asked = oip_text.make_generation_request(tensors[0], parameters, timeout_s)
            text = await oip_text.generate_text(model, asked, self._tracer)
            return (text.output,), text.facts, text.timing
        assert isinstance(model, TensorModel)  # noqa: S101  # `signature_of` has seen to it
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        answer = await model.infer(tensors, deadline_s)
        self._record(answer.timing)
        return answer.outputs, answer.counts, answer.timing

    def _resolve(self, name: str, version: str, context: grpc.aio.ServicerContext) -> LoadedModel:
        model: LoadedModel = self._models.resolve(name, version, routed_version(context))
        span = trace.get_current_span()
        span.set_attribute("ringmesh.node", self._node)
        span.set_attribute("ringmesh.model", model.name)
        span.set_attribute("ringmesh.version", model.version)
        return model

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

    def _record(self, timing: Timing) -> None:
        """Draws the phases under the call's span, now that they are known."""
        if timing.queued_ns is not None:
            self._span("queue", timing.queued_ns, timing.began_ns, timing.batch_size)
        self._span("compute", timing.began_ns, timing.ended_ns, timing.batch_size)

    def _span(self, name: str, began_ns: int, ended_ns: int, batch_size: int) -> None:
        span = self._tracer.start_span(name, start_time=began_ns)
        span.set_attribute("ringmesh.batch_size", batch_size)
        span.end(ended_ns)


def signature_of(model: LoadedModel) -> Signature:
    """What a model takes and gives in this protocol."""
    if isinstance(model, LoadedLanguageModel):
        return oip_text.SIGNATURE
    if isinstance(model, TensorModel):
        return model.signature
    raise FailedPrecondition(f"model '{model.name}' is not served by this protocol")


def routed_version(context: grpc.aio.ServicerContext) -> str | None:
    """The version that the mesh's route has chosen."""
    for key, value in context.invocation_metadata() or ():
        if key == VERSION_HEADER and isinstance(value, str):
            return value
    return None


def make_response(
    request_id: str,
    model: LoadedModel,
    outputs: Iterable[Tensor],
    facts: Mapping[str, int | str],
) -> oip.ModelInferResponse:
    """The answer, each tensor raw in the place of its description."""
    response = oip.ModelInferResponse(
        model_name=model.name, model_version=str(model.version), id=request_id
    )
    for tensor in outputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(tensor.raw)
    for name, value in facts.items():
        if isinstance(value, str):
            response.parameters[name].string_param = value
        else:
            response.parameters[name].int64_param = value
    return response


def _is_meant(status: ModelStatus, model: str, version: int | None) -> bool:
    return status.model == model and version in (None, status.version)


def _chosen(outputs: Iterable[Tensor], wanted: Iterable[str]) -> list[Tensor]:
    by_name = {tensor.name: tensor for tensor in outputs}
    return [by_name[name] for name in wanted]


def _not_offered(method: str) -> Any:
    async def refuse(_request: Any, _context: grpc.aio.ServicerContext) -> NoReturn:
        raise Unimplemented(f"{method} is not offered by this node")

    async def refuse_stream(_requests: Any, _context: grpc.aio.ServicerContext) -> Any:
        raise Unimplemented(f"{method} is not offered by this node")
        yield  # a stream's method is an async generator

    return refuse_stream if method == "ModelStreamInfer" else refuse
