"""Refuses well-formed requests that ask for what this mesh does not do, or for too much. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mesh.errors import InvalidArgument
from services.gateway.openai.constraint import asked_constraint
from services.gateway.openai.request import (
    MAX_GENERATIONS,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
)

_OF_VLLM: Mapping[str, object] = MappingProxyType(
    {
        "add_generation_prompt": True,
        "add_special_tokens": None,
        "allowed_token_ids": None,
        "bad_words": None,
        "chat_template": None,
        "chat_template_kwargs": None,
        "continue_final_message": False,
        "documents": None,
        "include_stop_str_in_output": False,
        "length_penalty": 1,
        "min_tokens": 0,
        "prompt_logprobs": None,
        "skip_special_tokens": True,
        "stop_token_ids": None,
        "truncate_prompt_tokens": None,
        "use_beam_search": False,
    }
)
"""What vLLM would change the answer by, with the value by which it changes nothing."""
_INSTEAD_OF_TOOLS = "models here call no tools; for JSON of a given form send response_format"


def check_chat(request: ChatRequest) -> None:
    """Refuses what would change the answer and is not honoured."""
    _check_extensions(request)
    _check_tools(request)
    _refuse("logit_bias", request.logit_bias)
    _refuse("audio", request.audio)
    if request.modalities not in (None, ["text"]):
        raise _unsupported("modalities", "other than text")
    asked_constraint(request)
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidArgument("top_logprobs needs logprobs to be true", field="top_logprobs")


def _check_tools(request: ChatRequest) -> None:
    """Models here call no tools: neither are tools taken, nor a conversation in which some were."""
    _refuse("tools", request.tools, _INSTEAD_OF_TOOLS)
    _refuse("functions", request.functions, _INSTEAD_OF_TOOLS)
    if request.tool_choice not in (None, "none", "auto"):
        raise _unsupported("tool_choice", _INSTEAD_OF_TOOLS)
    if request.function_call not in (None, "none", "auto"):
        raise _unsupported("function_call", _INSTEAD_OF_TOOLS)
    for index, message in enumerate(request.messages):
        _refuse(f"messages[{index}].tool_calls", message.tool_calls)
        _refuse(f"messages[{index}].function_call", message.function_call)


def check_completion(request: CompletionRequest) -> None:
    """Refuses what would change the answer and is not honoured, and more answers than can wait."""
    _check_extensions(request)
    asked_constraint(request)
    _refuse("echo", request.echo)
    _refuse("suffix", request.suffix)
    _refuse("logit_bias", request.logit_bias)
    if request.best_of not in (None, request.choices):
        raise _unsupported("best_of", "other than n")
    prompts, choices = len(request.prompt), request.choices
    if prompts * choices > MAX_GENERATIONS:
        raise InvalidArgument(
            f"n: {choices} choices of {prompts} prompts are more than {MAX_GENERATIONS} answers",
            field="n",
        )


def _check_extensions(request: ChatRequest | CompletionRequest) -> None:
    given = request.model_extra or {}
    for field, harmless in _OF_VLLM.items():
        if given.get(field) not in (None, harmless, [], {}):
            raise _unsupported(field)


def check_embedding(request: EmbeddingRequest) -> None:
    """Refuses what would change the answer and is not honoured."""
    if request.dimensions is not None:
        raise _unsupported("dimensions", "a model's own length is the only one")


def _refuse(field: str, value: Any, why: str = "") -> None:
    if value:
        raise _unsupported(field, why)


def _unsupported(field: str, why: str = "") -> InvalidArgument:
    text = f"{field} is not supported"
    return InvalidArgument(f"{text}: {why}" if why else text, field=field)
