"""What a caller asks of a language model, and what it gets; the checks that need no model.

Every field is checked before the request costs anything; an error names the field. Fields left
unset take the model's own defaults, see `SamplingDefaults`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from mesh.errors import InvalidArgument
from services.inference.llm.architecture import SamplingDefaults
from services.inference.llm.chat_template import ChatMessage
from services.inference.llm.constraint import Constraint
from services.inference.llm.sampling import Logprob, Sampling

LARGEST_LOGPROBS = 20
LARGEST_STOP_COUNT = 16
LARGEST_STOP_CHARACTERS = 1024
LARGEST_PRIORITY = 100
_LARGEST_TEMPERATURE = 2.0
_LARGEST_REPETITION_PENALTY = 10.0
_LARGEST_PENALTY = 2.0


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """How to choose tokens, as far as the caller cares."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation. The prompt is a conversation, a text, or token ids.

    Requests of one session take turns with those of others; of two, the one with the smaller
    priority goes first.
    """

    prompt: tuple[ChatMessage, ...] | str | tuple[int, ...]
    sampling: SamplingRequest = field(default_factory=SamplingRequest)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    resume_token_ids: tuple[int, ...] = ()
    timeout_s: float | None = None
    constraint: Constraint | None = None
    session: str | None = None
    priority: int = 0


class FinishReason(Enum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Started:
    """The request has a slot. Times are nanoseconds since 1970."""

    at_ns: int
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """Tokens, and the text that has become certain with them."""

    at_ns: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The end. An end-of-sequence token is neither delivered nor counted."""

    at_ns: int
    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    queue_us: int
    prefill_us: int
    decode_us: int
    largest_batch: int


Event = Started | Delta | Finished


def decide_sampling(asked: SamplingRequest, defaults: SamplingDefaults, seed: int) -> Sampling:
    """Checks what was asked and fills in the rest; `seed` is taken if the caller gave none."""
    return Sampling(
        temperature=_within(
            "temperature", asked.temperature, defaults.temperature, 0, _LARGEST_TEMPERATURE
        ),
        top_p=_top_p(asked.top_p, defaults.top_p),
        top_k=_top_k(asked.top_k, defaults.top_k),
        min_p=_within("min_p", asked.min_p, defaults.min_p, 0, 1),
        repetition_penalty=_repetition(asked.repetition_penalty, defaults.repetition_penalty),
        presence_penalty=_penalty("presence_penalty", asked.presence_penalty),
        frequency_penalty=_penalty("frequency_penalty", asked.frequency_penalty),
        seed=seed if asked.seed is None else asked.seed,
    )


def check_limits(request: GenerationRequest) -> None:
    """Refuses counts that make no sense."""
    if request.max_tokens is not None and request.max_tokens < 1:
        raise InvalidArgument(
            f"max_tokens must be at least 1, not {request.max_tokens}", field="max_tokens"
        )
    if request.logprobs is not None and not 0 <= request.logprobs <= LARGEST_LOGPROBS:
        raise InvalidArgument(
            f"logprobs must lie between 0 and {LARGEST_LOGPROBS}, not {request.logprobs}",
            field="logprobs",
        )
    if abs(request.priority) > LARGEST_PRIORITY:
        raise InvalidArgument(
            f"priority must lie between -{LARGEST_PRIORITY} and {LARGEST_PRIORITY}, "
            f"not {request.priority}",
            field="priority",
        )
    _check_stop(request.stop)


def _check_stop(stop: tuple[str, ...]) -> None:
    if len(stop) > LARGEST_STOP_COUNT:
        raise InvalidArgument(
            f"at most {LARGEST_STOP_COUNT} stop strings, not {len(stop)}", field="stop"
        )
    if any(not 1 <= len(text) <= LARGEST_STOP_CHARACTERS for text in stop):
        raise InvalidArgument(
            f"a stop string has between 1 and {LARGEST_STOP_CHARACTERS} characters", field="stop"
        )


def _within(name: str, asked: float | None, default: float, low: float, high: float) -> float:
    value = default if asked is None else asked
    # A NaN fails this comparison too.
    if not low <= value <= high:
        raise InvalidArgument(
            f"{name} must lie between {low:g} and {high:g}, not {value:g}", field=name
        )
    return value


def _top_p(asked: float | None, default: float) -> float:
    value = default if asked is None else asked
    if not 0 < value <= 1:
        raise InvalidArgument(
            f"top_p must be greater than 0 and at most 1, not {value:g}", field="top_p"
        )
    return value


def _top_k(asked: int | None, default: int) -> int:
    value = default if asked is None else asked
    if value < 0:
        raise InvalidArgument(f"top_k must be 0 (off) or more, not {value}", field="top_k")
    return value


def _repetition(asked: float | None, default: float) -> float:
    value = default if asked is None else asked
    if not (math.isfinite(value) and 0 < value <= _LARGEST_REPETITION_PENALTY):
        raise InvalidArgument(
            "repetition_penalty must be greater than 0 and at most "
            f"{_LARGEST_REPETITION_PENALTY:g}, not {value:g}",
            field="repetition_penalty",
        )
    return value


def _penalty(name: str, asked: float | None) -> float:
    return _within(name, asked, 0.0, -_LARGEST_PENALTY, _LARGEST_PENALTY)
