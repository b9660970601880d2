"""Request parameters whose names the protocol's extensions reserve, and what they may hold: pure.

A sequence ties requests together: the same id reaches the same node for as long as that can be.
Nothing is remembered between its requests, so its start and end are checked and change nothing.
Parameters of other names are the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mesh.errors import InvalidArgument
from mesh.pb.inference_pb2 import InferParameter

SEQUENCE_ID: Final = "sequence_id"
SEQUENCE_MARKS: Final = ("sequence_start", "sequence_end")
EMPTY_FINAL: Final = "triton_enable_empty_final_response"
"""A client that sends it as true wants a last response without any output."""

RESERVED: Final = frozenset(
    {SEQUENCE_ID, *SEQUENCE_MARKS, "priority", "timeout", "binary_data_output"}
)
"""Clients send them unasked; no model sees them."""
RESERVED_PREFIX: Final = "triton_"

Parameters = Mapping[str, InferParameter]


def check_parameters(parameters: Parameters) -> None:
    """Refuses reserved parameters that mean nothing or contradict each other.

    Raises:
        InvalidArgument: one of them is wrong; the field is named.
    """
    requested_sequence(parameters)
    for name in parameters:
        if name == EMPTY_FINAL:
            _boolean(name, parameters)
        elif name.startswith(RESERVED_PREFIX):
            raise _wrong(name, f"names that begin with {RESERVED_PREFIX} are reserved")


def requested_sequence(parameters: Parameters) -> str | int | None:
    """The sequence that a request belongs to; None, as 0 and the empty string, for none.

    Raises:
        InvalidArgument: it is no id, or a sequence begins or ends that has none.
    """
    sequence = _sequence_id(parameters)
    for name in SEQUENCE_MARKS:
        if name in parameters and _boolean(name, parameters) and sequence is None:
            raise _wrong(name, f"needs a {SEQUENCE_ID} other than 0")
    return sequence


def _sequence_id(parameters: Parameters) -> str | int | None:
    if SEQUENCE_ID not in parameters:
        return None
    parameter = parameters[SEQUENCE_ID]
    choice = parameter.WhichOneof("parameter_choice")
    if choice not in ("string_param", "int64_param", "uint64_param"):
        raise _wrong(SEQUENCE_ID, "takes an integer or a string")
    value: str | int = getattr(parameter, choice)
    return value or None


def _boolean(name: str, parameters: Parameters) -> bool:
    parameter = parameters[name]
    if parameter.WhichOneof("parameter_choice") != "bool_param":
        raise _wrong(name, "takes true or false")
    return parameter.bool_param


def _wrong(name: str, problem: str) -> InvalidArgument:
    field = f"parameters.{name}"
    return InvalidArgument(f"{field}: {problem}", field=field)
