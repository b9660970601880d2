"""`ringmesh.node.v1.Node`: token streams of language models, and the state of every model version.

Between the wire and `llm.model` only: messages become requests, events become messages and spans.
Initial metadata is sent with the first event, not before, so that a refusal stays an answer without
headers, which a proxy may still try on another node.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import trace

from mesh.deadline import remaining_s
from mesh.errors import InvalidArgument
from mesh.pb import node_pb2
from services.inference.llm.chat_template import ChatMessage
from services.inference.llm.constraint import Constraint, ConstraintKind
from services.inference.llm.model import LoadedLanguageModel
from services.inference.llm.request import (
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    SamplingRequest,
    Started,
)
from services.inference.models.timing import Execution, Timing
from services.inference.session import session_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    import grpc
    from opentelemetry.trace import Span, Tracer

    from services.inference.llm.sampling import Logprob
    from services.inference.llm.vocabulary import Vocabulary
    from services.inference.models.response_statistics import ResponseTimer
    from services.inference.models.statistics import VersionStatistics

NODE_HEADER = "x-ringmesh-node"
VERSION_HEADER = "x-ringmesh-version"

NS_PER_US = 1000

_FINISH_REASON = {
    FinishReason.STOP: node_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: node_pb2.FINISH_REASON_LENGTH,
}


class ModelState(Protocol):
    """A state by the name that the protocol gives it: `READY`."""

    @property
    def name(self) -> str:
        """The name."""


class ModelStatus(Protocol):
    """What is known of a model version on this node."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def version(self) -> int:
        """The version's number."""

    @property
    def state(self) -> ModelState:
        """Where it is between being asked for and being gone."""

    @property
    def reason(self) -> str:
        """Why it is in this state, if there is something to say."""

    @property
    def backend(self) -> str:
        """The engine it runs on."""

    @property
    def memory_bytes(self) -> int:
        """What it takes."""


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
            contextlib.closing(PhaseSpans(self._tracer)) as spans,
        ):
            asked = _request(request, remaining_s(context), session_of(context))
            async with contextlib.aclosing(model.generate(asked)) as events:
                async for event in events:
                    spans.see(event)
                    if isinstance(event, Started):
                        measured.responses.begin()
                        await self._send_metadata(model, context)
                    elif isinstance(event, Finished):
                        measured.succeed(generation_timing(event))
                    with _counted(measured.responses, event):
                        yield self._response(event, model)

    async def ListModels(
        self, request: node_pb2.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> node_pb2.ListModelsResponse:
        """Lists model versions with their states."""
        del request, context
        return node_pb2.ListModelsResponse(models=map(_status, self._models.statuses()))

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

    def _response(self, event: Event, model: LoadedLanguageModel) -> node_pb2.GenerateResponse:
        match event:
            case Started():
                started = node_pb2.Started(
                    model_version=str(model.version),
                    node=self._node,
                    prompt_tokens=event.prompt_tokens,
                    cached_tokens=event.cached_tokens,
                )
                return node_pb2.GenerateResponse(started=started)
            case Delta():
                return node_pb2.GenerateResponse(delta=_delta(event, model.vocabulary))
            case Finished():
                return node_pb2.GenerateResponse(finished=_finished(event))


class PhaseSpans:
    """The spans `queue`, `prefill` and `decode` under the call's own, begun and ended by events."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._context = trace.set_span_in_context(trace.get_current_span())
        self._span: Span = tracer.start_span("queue", self._context)
        self._is_decoding = False

    def see(self, event: Event) -> None:
        """Moves on to the phase that the event begins."""
        match event:
            case Started():
                self._next("prefill", event.at_ns)
                self._span.set_attribute("ringmesh.prompt_tokens", event.prompt_tokens)
                self._span.set_attribute("ringmesh.cached_tokens", event.cached_tokens)
            case Delta() if not self._is_decoding:
                self._is_decoding = True
                self._next("decode", event.at_ns)
            case Finished():
                self._span.set_attribute("ringmesh.completion_tokens", event.completion_tokens)
                self._span.set_attribute("ringmesh.batch_size", event.largest_batch)
                self._span.set_attribute("ringmesh.finish_reason", event.reason.value)

    def close(self) -> None:
        """Ends the phase that is going on."""
        self._span.end()

    def _next(self, name: str, at_ns: int) -> None:
        self._span.end(at_ns)
        self._span = self._tracer.start_span(name, self._context, start_time=at_ns)


def _counted(responses: ResponseTimer, event: Event) -> contextlib.AbstractContextManager[None]:
    """Where the event is a response to those who ask by the Open Inference Protocol: counts it."""
    match event:
        case Finished():
            return responses.response(is_last=True, is_empty=True)
        case Delta() if event.text:
            return responses.response()
        case _:
            return contextlib.nullcontext()


def generation_timing(finished: Finished) -> Timing:
    """When a generation was made: it counts as one execution, though its steps had company."""
    began_ns = finished.at_ns - (finished.prefill_us + finished.decode_us) * NS_PER_US
    return Timing(
        began_ns=began_ns,
        ended_ns=finished.at_ns,
        executions=(Execution(1, began_ns, finished.at_ns),),
        queued_ns=began_ns - finished.queue_us * NS_PER_US,
    )


def _routed_version(context: grpc.aio.ServicerContext) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == VERSION_HEADER and isinstance(value, str):
            return value
    return None


def _request(
    message: node_pb2.GenerateRequest, timeout_s: float | None, session: str | None
) -> GenerationRequest:
    return GenerationRequest(
        prompt=_prompt(message),
        sampling=_sampling(message.sampling),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop=tuple(message.stop),
        ignore_eos=message.ignore_eos,
        logprobs=message.logprobs if message.HasField("logprobs") else None,
        resume_token_ids=tuple(message.resume_token_ids),
        timeout_s=timeout_s,
        session=session,
        priority=message.priority,
        constraint=_constraint(message),
    )


def _constraint(message: node_pb2.GenerateRequest) -> Constraint | None:
    match message.WhichOneof("constraint"):
        case None:
            return None
        case "json_object":
            return Constraint(ConstraintKind.JSON_OBJECT) if message.json_object else None
        case "choice":
            return Constraint(ConstraintKind.CHOICE, tuple(message.choice.texts))
        case kind:
            return Constraint(ConstraintKind(kind), (getattr(message, kind),))


def _prompt(message: node_pb2.GenerateRequest) -> tuple[ChatMessage, ...] | str | tuple[int, ...]:
    match message.WhichOneof("prompt"):
        case "chat":
            return tuple(ChatMessage(m.role, m.content, m.name) for m in message.chat.messages)
        case "text":
            return message.text
        case "token_ids":
            return tuple(message.token_ids.ids)
        case _:
            raise InvalidArgument("the request has no prompt", field="prompt")


def _sampling(message: node_pb2.Sampling) -> SamplingRequest:
    given = {field.name: value for field, value in message.ListFields()}
    return SamplingRequest(**given)


def _delta(event: Delta, vocabulary: Vocabulary) -> node_pb2.Delta:
    return node_pb2.Delta(
        text=event.text,
        token_ids=event.token_ids,
        logprobs=[_logprob(entry, vocabulary) for entry in event.logprobs],
    )


def _logprob(entry: Logprob, vocabulary: Vocabulary) -> node_pb2.TokenLogprob:
    def one(token: int, logprob: float) -> node_pb2.TokenLogprob:
        name = vocabulary.name_bytes(token)
        return node_pb2.TokenLogprob(token_id=token, token=name, logprob=logprob)

    message = one(entry.token, entry.logprob)
    message.top.extend(one(token, logprob) for token, logprob in entry.top)
    return message


def _finished(event: Finished) -> node_pb2.Finished:
    return node_pb2.Finished(
        reason=_FINISH_REASON[event.reason],
        prompt_tokens=event.prompt_tokens,
        completion_tokens=event.completion_tokens,
        timing=node_pb2.Timing(
            queue_us=event.queue_us, prefill_us=event.prefill_us, decode_us=event.decode_us
        ),
    )


def _status(status: ModelStatus) -> node_pb2.ModelStatus:
    return node_pb2.ModelStatus(
        model=status.model,
        version=str(status.version),
        state=f"MODEL_STATE_{status.state.name}",
        reason=status.reason,
        backend=status.backend,
        memory_bytes=status.memory_bytes,
    )
