"""Refuses well-formed requests that ask for what this mesh does not do. Pure."""

from __future__ import annotations

from typing import Any

from mesh.errors import InvalidArgument
from services.gateway.openai.request import ChatRequest, CompletionRequest, EmbeddingRequest


def check_chat(request: ChatRequest) -> None:
    """Refuses what would change the answer and is not honoured."""
    _refuse("tools", request.tools)
    _refuse("functions", request.functions)
    _refuse("logit_bias", request.logit_bias)
    _refuse("audio", request.audio)
    if request.tool_choice not in (None, "none", "auto"):
        raise _unsupported("tool_choice")
    if request.function_call not in (None, "none", "auto"):
        raise _unsupported("function_call")
    if request.modalities not in (None, ["text"]):
        raise _unsupported("modalities", "other than text")
    kind = (request.response_format or {"type": "text"}).get("type")
    if kind != "text":
        raise _unsupported("response_format", "other than text")
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidArgument("top_logprobs needs logprobs to be true", field="top_logprobs")


def check_completion(request: CompletionRequest) -> None:
    """Refuses what would change the answer and is not honoured."""
    _refuse("echo", request.echo)
    _refuse("suffix", request.suffix)
    _refuse("logit_bias", request.logit_bias)
    if request.best_of not in (None, request.choices):
        raise _unsupported("best_of", "other than n")


def check_embedding(request: EmbeddingRequest) -> None:
    """Refuses what would change the answer and is not honoured."""
    if request.dimensions is not None:
        raise _unsupported("dimensions", "a model's own length is the only one")


def _refuse(field: str, value: Any) -> None:
    if value:
        raise _unsupported(field)


def _unsupported(field: str, why: str = "") -> InvalidArgument:
    text = f"{field} is not supported"
    return InvalidArgument(f"{text}: {why}" if why else text, field=field)
