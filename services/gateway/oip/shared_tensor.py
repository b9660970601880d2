"""Tensors in shared memory, in and out of the protocol's messages.

A request whose inputs lie in shared memory becomes one that carries them, so that a node never
hears of it; outputs that the caller wants there are taken out of the answer again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.errors import InvalidArgument, PayloadTooLarge, Unimplemented
from mesh.pb import inference_pb2 as oip
from mesh.server import MAX_MESSAGE_BYTES
from services.gateway.caller import Caller
from services.gateway.shared_memory import SharedMemory

REGION = "shared_memory_region"
BYTE_SIZE = "shared_memory_byte_size"
OFFSET = "shared_memory_offset"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: a region's name, and bytes within it."""

    region: str
    offset: int
    byte_size: int


def take_place(parameters: Any, field: str) -> Place | None:
    """Takes the place of a tensor out of its parameters; None if it is in no shared memory."""
    if REGION not in parameters:
        return None
    region = parameters.pop(REGION)
    if region.WhichOneof("parameter_choice") != "string_param":
        raise InvalidArgument(f"{field}.{REGION}: must be a string", field=f"{field}.{REGION}")
    size = _number(parameters, BYTE_SIZE, field)
    if size is None:
        raise InvalidArgument(f"{field}.{BYTE_SIZE}: is missing", field=f"{field}.{BYTE_SIZE}")
    return Place(region.string_param, _number(parameters, OFFSET, field) or 0, size)


def fetch_inputs(request: oip.ModelInferRequest, memory: SharedMemory, caller: Caller) -> None:
    """Puts what lies in shared memory into the request.

    Raises:
        InvalidArgument: typed contents beside shared memory, or a place that does not exist.
        NotFound: a region that is not registered.
        PayloadTooLarge: more than a node takes.
        Unimplemented: the caller is on another host.
    """
    places = [take_place(each.parameters, f"inputs.{each.name}") for each in request.inputs]
    if not any(places):
        return
    memory.check_local(caller)
    sent = list(request.raw_input_contents)
    expected = sum(place is None for place in places)
    if len(sent) != expected:
        raise InvalidArgument(
            f"inputs: {len(sent)} raw contents for {expected} inputs outside of shared memory; "
            "beside shared memory, inputs are sent raw",
            field="inputs",
        )
    size = sum(map(len, sent)) + sum(place.byte_size for place in places if place is not None)
    if size > MAX_MESSAGE_BYTES:
        raise PayloadTooLarge(f"inputs: {size} bytes are more than {MAX_MESSAGE_BYTES}")
    del request.raw_input_contents[:]
    in_order = iter(sent)
    for place in places:
        data = next(in_order) if place is None else _read(place, memory, caller)
        request.raw_input_contents.append(data)


def take_output_places(
    request: oip.ModelInferRequest, memory: SharedMemory, caller: Caller
) -> Mapping[str, Place]:
    """Takes out of the request where its outputs are wanted; there is such a place for each.

    Raises:
        InvalidArgument: a place that reaches past its region.
        NotFound: a region that is not registered.
        Unimplemented: the caller is on another host.
    """
    found = {
        each.name: take_place(each.parameters, f"outputs.{each.name}") for each in request.outputs
    }
    places = {name: place for name, place in found.items() if place is not None}
    for place in places.values():
        memory.check_part(place.region, place.offset, place.byte_size, caller)
    return places


def refuse_output_places(request: oip.ModelInferRequest) -> None:
    """Refuses outputs in shared memory, for an answer in pieces: each would overwrite the last.

    Raises:
        Unimplemented: an output is wanted there.
    """
    for output in request.outputs:
        if REGION in output.parameters:
            raise Unimplemented(
                f"outputs.{output.name}: what comes in pieces cannot go to shared memory"
            )


def store_outputs(
    response: oip.ModelInferResponse,
    places: Mapping[str, Place],
    memory: SharedMemory,
    caller: Caller,
) -> None:
    """Moves outputs from the response to where they are wanted.

    Raises:
        InvalidArgument: an output is larger than its place.
    """
    if not places:
        return
    raw = list(response.raw_output_contents)
    del response.raw_output_contents[:]
    for output, data in zip(response.outputs, raw, strict=True):
        place = places.get(output.name)
        # An entry for every output, also an empty one: clients find theirs by its position.
        response.raw_output_contents.append(data if place is None else b"")
        if place is not None:
            _write(output, data, place, memory, caller)


def _read(place: Place, memory: SharedMemory, caller: Caller) -> bytes:
    return memory.read(place.region, place.offset, place.byte_size, caller)


def _write(output: Any, data: bytes, place: Place, memory: SharedMemory, caller: Caller) -> None:
    if len(data) > place.byte_size:
        field = f"outputs.{output.name}.{BYTE_SIZE}"
        raise InvalidArgument(
            f"{field}: the output has {len(data)} bytes, more than {place.byte_size}", field=field
        )
    memory.write(place.region, place.offset, data, caller)
    output.parameters[REGION].string_param = place.region
    output.parameters[BYTE_SIZE].int64_param = len(data)
    if place.offset:
        output.parameters[OFFSET].int64_param = place.offset


def _number(parameters: Any, name: str, field: str) -> int | None:
    if name not in parameters:
        return None
    parameter = parameters.pop(name)
    choice = parameter.WhichOneof("parameter_choice")
    value: int = getattr(parameter, choice) if choice in ("int64_param", "uint64_param") else -1
    if value < 0:
        raise InvalidArgument(f"{field}.{name}: must be a number of bytes", field=f"{field}.{name}")
    return value
