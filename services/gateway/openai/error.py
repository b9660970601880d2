"""Errors in OpenAI's shape, and its requests read so that a wrong field is named. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from mesh.errors import InvalidArgument, ModelNotFound, RingmeshError, error_http_status
from services.gateway.http.json import json_response

R = TypeVar("R", bound=BaseModel)

_TYPES: Final[Mapping[int, str]] = MappingProxyType(
    {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "invalid_request_error",
        413: "invalid_request_error",
        429: "rate_limit_error",
        503: "service_unavailable_error",
        504: "timeout_error",
    }
)

# What the node calls the fields of its own requests, where OpenAI has other names.
CHAT_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {"prompt": "messages", "logprobs": "top_logprobs", "model_name": "model"}
)
COMPLETION_FIELDS: Final[Mapping[str, str]] = MappingProxyType({"model_name": "model"})
EMBEDDING_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {"inputs.text": "input", "model_name": "model"}
)


def read_request(kind: type[R], body: bytes) -> R:
    """The request in `body`; raises `InvalidArgument` naming the first wrong field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None


def error_body(error: RingmeshError) -> dict[str, Any]:
    """The JSON of an error."""
    status = error_http_status(error)
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(status, "api_error"),
            "param": "model" if isinstance(error, ModelNotFound) else error.field,
            "code": error.reason.lower(),
        }
    }


def render_error(error: RingmeshError) -> Response:
    """An error as an answer."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    return json_response(error_body(error), error_http_status(error), headers)


@contextmanager
def in_words_of(fields: Mapping[str, str]) -> Iterator[None]:
    """Calls the field of a node's refusal what the caller called it."""
    try:
        yield
    except InvalidArgument as error:
        field = error.field or ""
        raise InvalidArgument(error.message, field=fields.get(field, field)) from None


def _refusal(error: ValidationError) -> InvalidArgument:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return InvalidArgument(f"the body is not valid JSON: {first['msg']}", field="body")
    field = _path(first["loc"]) or "body"
    message = first["msg"].removeprefix("Value error, ")
    return InvalidArgument(f"{field}: {message}", field=field)


def _path(loc: tuple[int | str, ...]) -> str:
    """`messages[0].content`, without what pydantic adds for the arm of a union."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int"):
            path += f".{part}" if path else part
    return path
