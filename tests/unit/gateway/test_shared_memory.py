"""Tensors in shared memory: who may use it, what is refused, and what a message becomes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mesh.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PayloadTooLarge,
    RingmeshError,
    Unimplemented,
)
from mesh.pb import inference_pb2 as oip
from mesh.server import MAX_MESSAGE_BYTES
from services.gateway.caller import Caller
from services.gateway.oip.shared_tensor import (
    fetch_inputs,
    refuse_output_places,
    store_outputs,
    take_output_places,
)
from services.gateway.shared_memory import SharedMemory

HERE = Caller(address="127.0.0.1")
SIZE = 64
MANY = 400_000
LINEAR_S = 2.0
"""Several times what one pass over so many takes, and a third of a pass for each."""


@pytest.fixture
def memory(tmp_path: Path) -> SharedMemory:
    (tmp_path / "object").write_bytes(bytes(range(SIZE)))
    opened = SharedMemory(tmp_path)
    opened.register("r", "/object", 8, 32, HERE)
    yield opened
    opened.close()


def request_of(*regions: str | None) -> oip.ModelInferRequest:
    """Inputs in shared memory, or sent as `sent`."""
    request = oip.ModelInferRequest()
    for number, region in enumerate(regions):
        tensor = request.inputs.add(name=f"x{number}", datatype="UINT8", shape=[4])
        if region is None:
            request.raw_input_contents.append(b"sent")
            continue
        tensor.parameters["shared_memory_region"].string_param = region
        tensor.parameters["shared_memory_byte_size"].int64_param = 4
        tensor.parameters["shared_memory_offset"].int64_param = number
    return request


def request_for(region: str, *, offset: int, byte_size: int) -> oip.ModelInferRequest:
    """The output `b` is wanted in shared memory."""
    request = oip.ModelInferRequest()
    wanted = request.outputs.add(name="b").parameters
    wanted["shared_memory_region"].string_param = region
    wanted["shared_memory_byte_size"].int64_param = byte_size
    wanted["shared_memory_offset"].int64_param = offset
    return request


def test_inputs_come_out_of_memory_in_their_places(memory: SharedMemory) -> None:
    request = request_of("r", None, "r")
    fetch_inputs(request, memory, HERE)
    assert list(request.raw_input_contents) == [
        bytes([8, 9, 10, 11]),
        b"sent",
        bytes([10, 11, 12, 13]),
    ]
    assert not any(tensor.parameters for tensor in request.inputs)


def test_a_great_many_inputs_are_put_in_order_in_one_pass(memory: SharedMemory) -> None:
    request = oip.ModelInferRequest()
    for _ in range(MANY):
        request.inputs.add()
    request.raw_input_contents.extend([b""] * (MANY - 1))
    request.inputs[0].CopyFrom(request_of("r").inputs[0])
    began_s = time.process_time()
    fetch_inputs(request, memory, HERE)
    assert time.process_time() - began_s < LINEAR_S
    assert len(request.raw_input_contents) == MANY
    assert request.raw_input_contents[0] == bytes([8, 9, 10, 11])


def test_a_stranger_is_refused_before_anything_is_read(memory: SharedMemory) -> None:
    request = request_of("r", None)
    request.raw_input_contents.append(b"one too many")
    with pytest.raises(Unimplemented, match="own host"):
        fetch_inputs(request, memory, Caller(address="203.0.113.7"))


def test_outputs_go_where_they_are_wanted(memory: SharedMemory, tmp_path: Path) -> None:
    request = request_for("r", offset=2, byte_size=8)
    places = take_output_places(request, memory, HERE)
    assert not request.outputs[0].parameters
    response = oip.ModelInferResponse(raw_output_contents=[b"aaaa", b"bbbb"])
    response.outputs.add(name="a")
    response.outputs.add(name="b")
    store_outputs(response, places, memory, HERE)
    assert list(response.raw_output_contents) == [b"aaaa", b""]
    assert response.outputs[1].parameters["shared_memory_byte_size"].int64_param == 4
    assert (tmp_path / "object").read_bytes()[10:14] == b"bbbb"


def test_an_output_that_comes_in_pieces_stays_outside(memory: SharedMemory) -> None:
    request = request_of("r")
    request.outputs.add(name="a")
    refuse_output_places(request)
    request.outputs.add(name="b").parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(Unimplemented, match=r"outputs\.b: what comes in pieces"):
        refuse_output_places(request)


@pytest.mark.parametrize("address", [None, "203.0.113.7", "not an address", "2001:db8::1", ""])
def test_nobody_elses_host_may_look(memory: SharedMemory, address: str | None) -> None:
    stranger = Caller(address=address)
    for attempt in (
        lambda: memory.register("s", "/object", 0, 8, stranger),
        lambda: memory.status("", stranger),
        lambda: memory.unregister("", stranger),
        lambda: fetch_inputs(request_of("r"), memory, stranger),
        lambda: memory.write("r", 0, b"x", stranger),
    ):
        with pytest.raises(Unimplemented, match="own host"):
            attempt()
    assert list(memory.status("", HERE)) == ["r"]


@pytest.mark.parametrize(
    ("registration", "error"),
    [
        (("r", "/object", 0, 8), AlreadyExists),
        (("", "/object", 0, 8), InvalidArgument),
        (("s", "/nothing", 0, 8), InvalidArgument),
        (("s", "/../secret", 0, 8), InvalidArgument),
        (("s", "..", 0, 8), InvalidArgument),
        (("s", "/", 0, 8), InvalidArgument),
        (("s", "/link", 0, 8), InvalidArgument),
        (("s", "/object", 60, 8), InvalidArgument),
        (("s", "/object", 0, 0), InvalidArgument),
    ],
)
def test_a_wrong_registration_is_refused(
    memory: SharedMemory, tmp_path: Path, registration, error: type[RingmeshError]
) -> None:
    (tmp_path / "link").symlink_to("object")
    with pytest.raises(error):
        memory.register(*registration, HERE)


def test_what_reaches_past_a_region_is_refused(memory: SharedMemory, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="32 bytes"):
        memory.read("r", 30, 4, HERE)
    with pytest.raises(NotFound, match="nope"):
        memory.read("nope", 0, 4, HERE)
    os.truncate(tmp_path / "object", 10)
    with pytest.raises(InvalidArgument, match="cut short"):
        memory.read("r", 0, 4, HERE)
    with pytest.raises(InvalidArgument, match="cut short"):
        memory.write("r", 0, b"1234", HERE)


@pytest.mark.parametrize(
    ("region", "byte_size", "caller", "error"),
    [
        ("nope", 8, HERE, NotFound),
        ("r", 33, HERE, InvalidArgument),
        ("r", 8, Caller(address="203.0.113.7"), Unimplemented),
    ],
)
def test_a_place_that_takes_no_output_is_refused_before_there_is_one(
    memory: SharedMemory, region: str, byte_size: int, caller: Caller, error: type[RingmeshError]
) -> None:
    with pytest.raises(error):
        take_output_places(request_for(region, offset=0, byte_size=byte_size), memory, caller)


def test_no_more_is_read_than_a_node_takes(memory: SharedMemory, tmp_path: Path) -> None:
    os.truncate(tmp_path / "object", MAX_MESSAGE_BYTES)  # holes: it takes no room
    memory.register("large", "/object", 0, MAX_MESSAGE_BYTES, HERE)
    request = request_of("large", None, "large")
    request.inputs[0].parameters["shared_memory_byte_size"].int64_param = MAX_MESSAGE_BYTES - 7
    with pytest.raises(PayloadTooLarge, match=f"{MAX_MESSAGE_BYTES + 1} bytes"):
        fetch_inputs(request, memory, HERE)


def test_typed_contents_beside_shared_memory_are_refused(memory: SharedMemory) -> None:
    request = request_of("r", None)
    del request.raw_input_contents[:]
    request.inputs[1].contents.uint_contents.extend([1, 2, 3, 4])
    with pytest.raises(InvalidArgument, match="raw"):
        fetch_inputs(request, memory, HERE)


def test_an_unknown_region_may_be_unregistered(memory: SharedMemory) -> None:
    memory.unregister("nope", HERE)
    memory.unregister("", HERE)
    assert not memory.status("", HERE)
