"""JSON in and out, by the parser that pydantic brings: four times as fast as the standard library.

Integers stay exact whatever their size; a document that is not JSON is an error that says where.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic_core
from starlette.responses import Response

from mesh.errors import InvalidArgument


def parse_json(text: bytes, *, field: str = "body") -> Any:
    """The value of a JSON document; raises `InvalidArgument` where it is none."""
    try:
        return pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidArgument(f"the {field} is not valid JSON: {error}", field=field) from None


def dump_json(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return pydantic_core.to_json(value)


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer with a JSON body."""
    return Response(
        dump_json(value), status, headers=dict(headers or {}), media_type="application/json"
    )
