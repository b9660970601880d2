"""The protocol's parameters between JSON and `InferParameter`, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.errors import InvalidArgument
from mesh.pb import inference_pb2 as oip

INT64 = range(-(2**63), 2**63)
UINT64 = range(2**64)


def parse_parameters(value: Any, into: Any, *, field: str) -> None:
    """Fills a protobuf map of `InferParameter` from a JSON object; None stands for an empty one."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise InvalidArgument(f"{field} must be an object", field=field)
    for key, each in value.items():
        into[key].CopyFrom(_parameter(each, field=f"{field}.{key}"))


def render_parameters(parameters: Mapping[str, oip.InferParameter]) -> dict[str, Any]:
    """The JSON object of a protobuf map of `InferParameter`."""
    return {
        key: getattr(value, choice)
        for key, value in sorted(parameters.items())
        if (choice := value.WhichOneof("parameter_choice")) is not None
    }


def _parameter(value: Any, *, field: str) -> oip.InferParameter:
    match value:
        case bool():
            return oip.InferParameter(bool_param=value)
        case int() if value in INT64:
            return oip.InferParameter(int64_param=value)
        case int() if value in UINT64:
            return oip.InferParameter(uint64_param=value)
        case float():
            return oip.InferParameter(double_param=value)
        case str():
            return oip.InferParameter(string_param=_text(value, field))
        case _:
            raise InvalidArgument(
                f"{field} must be a string, a number that fits 64 bits, or true or false",
                field=field,
            )


def _text(value: str, field: str) -> str:
    if not value.isprintable():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"{field} is not valid Unicode", field=field) from None
    return value
