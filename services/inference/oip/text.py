"""Language models in the Open Inference Protocol: whole answers, and pieces as they come.

Token ids, log probabilities and conversations are the node's own service, which offers more than
this protocol can say.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from opentelemetry.trace import Tracer

from mesh.pb.inference_pb2 import ModelInferRequest, ModelInferResponse
from mesh.text_inference import (
    TEXT_INPUT,
    TEXT_OUTPUT,
    Facts,
    TextRequest,
    TextResponses,
    read_text_request,
)
from services.inference.generation.phase import PhaseSpans, generation_timing
from services.inference.llm.constraint import Constraint, ConstraintKind
from services.inference.llm.model import LoadedLanguageModel
from services.inference.llm.request import (
    Delta,
    Event,
    Finished,
    GenerationRequest,
    SamplingRequest,
    Started,
)
from services.inference.models.statistics import DecoupledMeasurement
from services.inference.models.tensor_model import Signature, TensorSpec

SIGNATURE = Signature(
    platform="onnxruntime_onnx",
    inputs=(TensorSpec(TEXT_INPUT, "BYTES", (1,)),),
    outputs=(TensorSpec(TEXT_OUTPUT, "BYTES", (1,)),),
    is_decoupled=True,
)

Events = AsyncGenerator[Event, None]


async def answer_text(
    model: LoadedLanguageModel,
    request: ModelInferRequest,
    timeout_s: float | None,
    tracer: Tracer,
    measured: DecoupledMeasurement,
    *,
    session: str | None,
) -> ModelInferResponse:
    """The whole continuation in one response."""
    parts: list[str] = []
    responses = TextResponses(request, model.name, str(model.version))
    async with _generating(model, request, timeout_s, session, tracer) as (events, phases):
        async for event in events:
            if isinstance(event, Delta):
                parts.append(event.text)
                if not phases.is_decoding:
                    phases.see(event)
                continue
            phases.see(event)
            if isinstance(event, Started):
                measured.responses.begin()
            else:
                with measured.responses.response(is_last=True):
                    response = responses.whole("".join(parts), _facts(event))
                measured.succeed(generation_timing(event))
                return response
    raise AssertionError("a generation ends with Finished or an error")


async def stream_text(
    model: LoadedLanguageModel,
    request: ModelInferRequest,
    timeout_s: float | None,
    tracer: Tracer,
    measured: DecoupledMeasurement,
    *,
    session: str | None,
) -> AsyncGenerator[ModelInferResponse, None]:
    """A response per piece of the continuation, and the final one."""
    responses = TextResponses(request, model.name, str(model.version))
    async with _generating(model, request, timeout_s, session, tracer) as (events, phases):
        async for event in events:
            if isinstance(event, Delta):
                if not phases.is_decoding:
                    phases.see(event)
                if event.text:
                    with measured.responses.response():
                        yield responses.piece(event.text)
                continue
            phases.see(event)
            if isinstance(event, Started):
                measured.responses.begin()
            else:
                measured.succeed(generation_timing(event))
                with measured.responses.response(is_last=True, is_empty=True):
                    yield responses.final(_facts(event))


def make_generation_request(
    asked: TextRequest, timeout_s: float | None, session: str | None = None
) -> GenerationRequest:
    """The generation that a request asks for."""
    return GenerationRequest(
        prompt=asked.prompt,
        max_tokens=asked.max_tokens,
        ignore_eos=asked.ignore_eos,
        stop=asked.stop,
        sampling=SamplingRequest(**asked.sampling),  # type: ignore[arg-type]  # names are checked
        timeout_s=timeout_s,
        session=session,
        priority=asked.priority,
        constraint=_constraint(asked),
    )


def _constraint(asked: TextRequest) -> Constraint | None:
    for kind, form in asked.form.items():
        if isinstance(form, str):
            return Constraint(ConstraintKind(kind), (form,))
        return Constraint(ConstraintKind(kind)) if form else None
    return None


@contextlib.asynccontextmanager
async def _generating(
    model: LoadedLanguageModel,
    request: ModelInferRequest,
    timeout_s: float | None,
    session: str | None,
    tracer: Tracer,
) -> AsyncIterator[tuple[Events, PhaseSpans]]:
    """The events of the generation, and the spans that each phase's first event moves on."""
    asked = make_generation_request(read_text_request(request), timeout_s, session)
    with contextlib.closing(PhaseSpans(tracer)) as phases:
        async with contextlib.aclosing(model.generate(asked)) as events:
            yield events, phases


def _facts(finished: Finished) -> Facts:
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "finish_reason": finished.reason.value,
    }
