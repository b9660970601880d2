"""What a request used, in OpenAI's words and on its span. Pure but for the span."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import Span

from mesh.pb.node_pb2 import FINISH_REASON_LENGTH, Finished
from services.gateway.generation import Choice


@dataclass(frozen=True, slots=True)
class Usage:
    """Counted tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """OpenAI's object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


def count_usage(
    choices: Sequence[Choice], finished: Iterable[Finished], *, per_prompt: int
) -> Usage:
    """Each prompt once, however many choices it has, and all generated tokens."""
    prompts = [choice.started for choice in choices[::per_prompt]]
    return Usage(
        prompt_tokens=sum(started.prompt_tokens for started in prompts),
        completion_tokens=sum(each.completion_tokens for each in finished),
        cached_tokens=sum(started.cached_tokens for started in prompts),
    )


def finish_reason(finished: Finished) -> str:
    """OpenAI's word for why a generation ended."""
    return "length" if finished.reason == FINISH_REASON_LENGTH else "stop"


def record_request(span: Span, operation: str, model: str) -> None:
    """Puts the request on its span (OpenTelemetry, GenAI semantic conventions)."""
    span.set_attribute("gen_ai.operation.name", operation)
    span.set_attribute("gen_ai.provider.name", "ringmesh")
    span.set_attribute("gen_ai.request.model", model)


def record_usage(span: Span, usage: Usage, reasons: Sequence[str] = ()) -> None:
    """Puts what was used on the span."""
    span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
    span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
    if reasons:
        span.set_attribute("gen_ai.response.finish_reasons", list(reasons))
