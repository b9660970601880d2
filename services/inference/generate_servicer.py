"""`ringmesh.node.v1.Node`: token streams of language models, and the state of every model version.

Between the wire and `llm.model` only: what messages mean is in `generation`. Initial metadata is
sent with the first event, not before, so that a refusal stays an answer without headers, which a
proxy may still try on another node.

A token costs what it takes to write and count it; everything else is done once per request.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any, Protocol

import grpc
from opentelemetry.trace import Tracer

from mesh.deadline import remaining_s
from mesh.errors import InvalidArgument
from mesh.native_server import Send, sender
from mesh.pb import node_pb2
from services.inference.generation.phase import PhaseSpans, generation_timing
from services.inference.generation.request import read_request
from services.inference.generation.response import (
    delta_bytes,
    write_delta,
    write_finished,
    write_started,
)
from services.inference.generation.status import ModelStatus, write_status
from services.inference.llm.model import LoadedLanguageModel
from services.inference.llm.request import Delta, Started
from services.inference.llm.vocabulary import Vocabulary
from services.inference.models.response_statistics import ResponseTimer
from services.inference.models.statistics import VersionStatistics
from services.inference.session import session_of

NODE_HEADER = "x-ringmesh-node"
VERSION_HEADER = "x-ringmesh-version"


class ModelTable(Protocol):
    """The node's model versions."""

    async def resolve(
        self, name: str, version: str, metadata_version: str | None, timeout_s: float | None
    ) -> Any:
        """The loaded model that a request means; raises ModelNotFound or ModelNotReady."""

    def statistics(self, model: str, version: int) -> VersionStatistics:
        """What a version that `resolve` has named is counted in."""

    def statuses(self) -> Iterable[ModelStatus]:
        """Every version that the node holds or is about to hold."""


class NodeServicer:
    """Serves `ringmesh.node.v1.Node`."""

    def __init__(self, node: str, models: ModelTable, tracer: Tracer) -> None:
        self._node = node
        self._models = models
        self._tracer = tracer

    async def Generate(
        self, request: node_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[node_pb2.GenerateResponse]:
        """Streams one generation."""
        model = await self._resolve(request, context)
        statistics = self._models.statistics(model.name, model.version)
        with (
            statistics.measure_decoupled() as measured,
            contextlib.closing(PhaseSpans(self._tracer)) as phases,
        ):
            asked = read_request(
                request,
                context_tokens=model.context_tokens,
                timeout_s=remaining_s(context),
                session=session_of(context),
            )
            responses = measured.responses
            send = sender(context)
            shortcut = send and _TokenStream(send, model.vocabulary, phases, responses)
            async with contextlib.aclosing(model.generate(asked, shortcut)) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        if not phases.is_decoding:
                            phases.see(event)
                        made_ns = responses.clock_ns()
                        try:
                            yield write_delta(event, model.vocabulary)
                        finally:
                            if event.text:  # else nothing by the Open Inference Protocol
                                responses.count(made_ns)
                    elif isinstance(event, Started):
                        phases.see(event)
                        responses.begin()
                        await self._send_metadata(model, context)
                        yield write_started(event, self._node, model.version)
                    else:
                        phases.see(event)
                        measured.succeed(generation_timing(event))
                        with responses.response(is_last=True, is_empty=True):
                            yield write_finished(event)

    async def ListModels(
        self, request: node_pb2.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> node_pb2.ListModelsResponse:
        """Lists model versions with their states."""
        del request, context
        return node_pb2.ListModelsResponse(models=map(write_status, self._models.statuses()))

    async def _resolve(
        self, request: node_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> LoadedLanguageModel:
        routed, timeout_s = _routed_version(context), remaining_s(context)
        model = await self._models.resolve(
            request.model_name, request.model_version, routed, timeout_s
        )
        if not isinstance(model, LoadedLanguageModel):
            raise InvalidArgument(
                f"model '{request.model_name}' does not generate text", field="model_name"
            )
        return model

    async def _send_metadata(
        self, model: LoadedLanguageModel, context: grpc.aio.ServicerContext
    ) -> None:
        await context.send_initial_metadata(
            ((NODE_HEADER, self._node), (VERSION_HEADER, str(model.version)))
        )


class _TokenStream:
    """The way of tokens to the reader of a call, behind the first."""

    def __init__(
        self, send: Send, vocabulary: Vocabulary, phases: PhaseSpans, responses: ResponseTimer
    ) -> None:
        self._send = send
        self._vocabulary = vocabulary
        self._phases = phases
        self._responses = responses

    def send(self, delta: Delta) -> bool:
        """Hands tokens to the server, if it has room and the first have gone before."""
        return self._phases.is_decoding and self._send(delta_bytes(delta, self._vocabulary))

    def count(self, delta: Delta, sent_ns: int) -> None:
        """Counts what was sent."""
        if delta.text:  # else nothing by the Open Inference Protocol
            self._responses.count(delta.at_ns, sent_ns)


def _routed_version(context: grpc.aio.ServicerContext) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == VERSION_HEADER and isinstance(value, str):
            return value
    return None
