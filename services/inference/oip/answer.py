"""One request of the Open Inference Protocol on a loaded version: check, run, count, render.

The same for a call of its own and for a request on a stream; what differs is whether a language
model's text comes whole or in pieces. Answers carry their tensors as raw bytes always, the only
form that stock clients read.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from opentelemetry.trace import Tracer

from mesh.errors import FailedPrecondition
from mesh.infer_stream import mark_final
from mesh.pb.inference_pb2 import ModelInferRequest, ModelInferResponse
from mesh.request_parameters import check_parameters
from mesh.scheduling_parameters import own_timeout_s, requested_priority, requested_timeout_s
from mesh.tensor import Tensor, validate_request
from services.inference.batching.terms import NO_LEVELS, Terms
from services.inference.llm.model import LoadedLanguageModel
from services.inference.models.loaded_model import LoadedModel
from services.inference.models.statistics import Measurement
from services.inference.models.table import ModelTable
from services.inference.models.tensor_model import Signature, TensorModel
from services.inference.models.timing import Timing
from services.inference.oip import text as oip_text
from services.inference.oip.classification import classify
from services.inference.oip.request import WantedOutput, check_inputs, requested_outputs

LONG_RANKING = 8192
"""So many values are ranked beside the event loop, which they would hold up for milliseconds: as
many strings are made of them, if as many classes are asked for."""


@dataclass(frozen=True, slots=True)
class Answering:
    """The versions' counts, and where to draw the phases of a request."""

    models: ModelTable
    tracer: Tracer

    async def whole(
        self,
        model: LoadedModel,
        request: ModelInferRequest,
        remaining_s: float | None,
        session: str | None = None,
    ) -> ModelInferResponse:
        """The one response to a request."""
        counts = self.models.statistics(model.name, model.version)
        if isinstance(model, LoadedLanguageModel):
            with counts.measure_decoupled() as responding:
                timeout_s = requested_timeout_s(request.parameters, remaining_s)
                return await oip_text.answer_text(
                    model, request, timeout_s, self.tracer, responding, session=session
                )
        with counts.measure() as measured:
            return await self._compute(model, request, remaining_s, measured)

    async def pieces(
        self,
        model: LoadedModel,
        request: ModelInferRequest,
        remaining_s: float | None,
        session: str | None = None,
    ) -> AsyncGenerator[ModelInferResponse, None]:
        """The responses to a request, the last one marked."""
        if not isinstance(model, LoadedLanguageModel):
            yield mark_final(await self.whole(model, request, remaining_s))
            return
        with self.models.statistics(model.name, model.version).measure_decoupled() as measured:
            timeout_s = requested_timeout_s(request.parameters, remaining_s)
            made = oip_text.stream_text(
                model, request, timeout_s, self.tracer, measured, session=session
            )
            async with aclosing(made) as responses:
                async for response in responses:
                    yield response

    async def _compute(
        self,
        model: LoadedModel,
        request: ModelInferRequest,
        remaining_s: float | None,
        measured: Measurement,
    ) -> ModelInferResponse:
        signature = signature_of(model)
        terms = make_terms(request, signature, remaining_s)
        assert isinstance(model, TensorModel)  # noqa: S101  # `signature_of` has seen to it
        tensors = validate_request(request)
        check_inputs(tensors, signature, model.name)
        wanted = requested_outputs(request, tensors, signature)
        answer = await model.infer(tensors, terms)
        self._draw(answer.timing)
        has_rows = signature.batching is not None
        outputs = await _render(answer.outputs, wanted, has_rows=has_rows)
        response = make_response(request.id, model, outputs, answer.counts)
        measured.succeed(answer.timing)
        return response

    def _draw(self, timing: Timing) -> None:
        """Draws the phases under the call's span, now that they are known."""
        if timing.queued_ns is not None:
            self._span("queue", timing.queued_ns, timing.began_ns, timing.batch_size)
        self._span("compute", timing.began_ns, timing.ended_ns, timing.batch_size)

    def _span(self, name: str, began_ns: int, ended_ns: int, batch_size: int) -> None:
        span = self.tracer.start_span(name, start_time=began_ns)
        span.set_attribute("ringmesh.batch_size", batch_size)
        span.end(ended_ns)


def make_terms(
    request: ModelInferRequest, signature: Signature, remaining_s: float | None
) -> Terms:
    """What the caller says of its deadline and its turn."""
    check_parameters(request.parameters)
    levels = NO_LEVELS if signature.batching is None else signature.batching.levels
    return Terms(
        deadline_s=None if remaining_s is None else time.monotonic() + remaining_s,
        priority=requested_priority(request.parameters, levels),
        timeout_s=own_timeout_s(request.parameters),
    )


def signature_of(model: LoadedModel) -> Signature:
    """What a model takes and gives in this protocol."""
    if isinstance(model, LoadedLanguageModel):
        return oip_text.SIGNATURE
    if isinstance(model, TensorModel):
        return model.signature
    raise FailedPrecondition(f"model '{model.name}' is not served by this protocol")


def make_response(
    request_id: str,
    model: LoadedModel,
    outputs: Iterable[Tensor],
    counts: Mapping[str, int],
) -> ModelInferResponse:
    """The answer, each tensor raw in the place of its description."""
    response = ModelInferResponse(
        model_name=model.name, model_version=str(model.version), id=request_id
    )
    for tensor in outputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(tensor.raw)
    for name, value in counts.items():
        response.parameters[name].int64_param = value
    return response


async def _render(
    outputs: Iterable[Tensor], wanted: Iterable[WantedOutput], *, has_rows: bool
) -> list[Tensor]:
    by_name = {tensor.name: tensor for tensor in outputs}
    return [await form_output(by_name[each.name], each, has_rows=has_rows) for each in wanted]


async def form_output(tensor: Tensor, wanted: WantedOutput, *, has_rows: bool) -> Tensor:
    """The output as it is wanted: itself, or its largest values."""
    if not wanted.classes:
        return tensor
    rank = partial(classify, tensor, wanted.classes, wanted.labels, has_rows=has_rows)
    return rank() if math.prod(tensor.shape) < LONG_RANKING else await asyncio.to_thread(rank)
