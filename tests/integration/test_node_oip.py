"""The Open Inference Protocol on a node, with unmodified tritonclient and a plain stub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from mesh.errors import ModelNotFound, ModelNotReady, RingmeshError, Unimplemented, error_from_rpc
from mesh.manifest import Manifest
from mesh.pb import inference_pb2 as oip
from services.inference.models.identity import open_identity
from services.inference.models.state import Change
from tests.integration.node_rig import NODE, NodeRig, open_node, spec_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDENTITY = Manifest(name="identity", task="tensor", format="identity")


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["native", "grpcio"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[NodeRig]:
    models = [open_identity(spec_of(IDENTITY, version)) for version in (1, 2)]
    async with open_node(models, request.param) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(rig: NodeRig) -> AsyncIterator[triton.InferenceServerClient]:
    async with triton.InferenceServerClient(rig.address) as opened:
        yield opened


def tensor_of(name: str, array: np.ndarray) -> Any:
    tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return tensor.set_data_from_numpy(array)


async def refusal(call: Any) -> RingmeshError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value)


def request(**tensor: Any) -> oip.ModelInferRequest:
    made = oip.ModelInferRequest(model_name="identity")
    made.inputs.add(name="x", **tensor)
    return made


async def test_the_server_says_what_it_is(client: triton.InferenceServerClient) -> None:
    assert await client.is_server_live()
    assert await client.is_server_ready()
    metadata = await client.get_server_metadata()
    assert metadata.name == "ringmesh"
    assert {"model_configuration", "parameters", "statistics"} <= set(metadata.extensions)
    assert "binary_tensor_data" not in metadata.extensions


ARRAYS = [
    np.array([True, False]),
    *(np.array([[0, 1], [2, 3]], dtype=t) for t in (np.uint8, np.uint16, np.uint32, np.uint64)),
    *(np.array([-1, 0, 1], dtype=t) for t in (np.int8, np.int16, np.int32, np.int64)),
    *(np.array([[0.5, -1.25]], dtype=t) for t in (np.float16, np.float32, np.float64)),
    np.array([b"", b"\x00\xff", "grüße".encode()], dtype=np.object_),
    np.zeros((0, 3), dtype=np.float32),
    np.array([], dtype=np.object_),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{list(a.shape)}")
async def test_identity_returns_any_tensor_as_it_was(client, array: np.ndarray) -> None:
    result = await client.infer("identity", [tensor_of("x", array)], request_id="r")
    assert np.array_equal(result.as_numpy("x"), array)
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("r", "identity", "2")


async def test_outputs_come_in_the_order_of_the_request(client) -> None:
    inputs = [tensor_of(name, np.array([value])) for name, value in (("a", 1), ("b", 2))]
    both = await client.infer("identity", inputs)
    assert [each.name for each in both.get_response().outputs] == ["a", "b"]
    outputs = [triton.InferRequestedOutput(name) for name in ("b", "a")]
    swapped = await client.infer("identity", inputs, outputs=outputs)
    assert [each.name for each in swapped.get_response().outputs] == ["b", "a"]
    assert (swapped.as_numpy("a"), swapped.as_numpy("b")) == ([1], [2])


async def test_typed_contents_are_answered_raw(rig: NodeRig) -> None:
    asked = request(datatype="FP32", shape=[2])
    asked.inputs[0].contents.fp32_contents.extend([1.5, -2.0])
    answer = await rig.stub.ModelInfer(asked)
    assert not answer.outputs[0].HasField("contents")
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == [1.5, -2.0]


async def test_answers_name_node_and_version(rig: NodeRig) -> None:
    call = rig.stub.ModelInfer(oip.ModelInferRequest(model_name="identity", model_version="1"))
    assert (await call).model_version == "1"
    metadata = dict(await call.initial_metadata())
    assert (metadata["x-ringmesh-node"], metadata["x-ringmesh-version"]) == (NODE, "1")


async def test_the_routes_version_counts_where_the_message_has_none(rig: NodeRig) -> None:
    routed = (("x-ringmesh-version", "1"),)
    for name, version, expected in (
        ("identity", "", "1"),
        ("identity@champion", "", "1"),
        ("identity", "2", "2"),
        ("identity@2", "", "2"),
    ):
        asked = oip.ModelInferRequest(model_name=name, model_version=version)
        assert (await rig.stub.ModelInfer(asked, metadata=routed)).model_version == expected


async def test_readiness_metadata_and_configuration_of_a_model(client, rig: NodeRig) -> None:
    assert await client.is_model_ready("identity")
    assert await client.is_model_ready("identity", "1")
    metadata = await client.get_model_metadata("identity")
    assert (metadata.name, list(metadata.versions)) == ("identity", ["1", "2"])
    config = (await client.get_model_config("identity")).config
    assert (config.name, config.backend, config.max_batch_size) == ("identity", "identity", 0)


async def test_an_unready_model_says_its_state_and_why(client, rig: NodeRig) -> None:
    key = ("slow", 1)
    rig.table.place(key)
    rig.table.change(key, Change.LOAD_BEGAN, "fetching the artefact")
    assert not await client.is_model_ready("slow")
    error = await refusal(rig.stub.ModelInfer(oip.ModelInferRequest(model_name="slow")))
    assert isinstance(error, ModelNotReady)
    assert error.metadata == {"model": "slow@1", "state": "LOADING"}
    assert "fetching the artefact" in error.message


async def test_unknown_models_and_versions_are_named(client, rig: NodeRig) -> None:
    for name, version, named in (
        ("nope", "", "nope"),
        ("identity", "7", "identity@7"),
        ("NOT a name", "", "NOT a name"),
        ("identity@champion", "", "champion"),
    ):
        asked = oip.ModelInferRequest(model_name=name, model_version=version)
        error = await refusal(rig.stub.ModelInfer(asked))
        assert isinstance(error, ModelNotFound)
        assert named in error.message
    with pytest.raises(InferenceServerException, match="nope"):
        await client.is_model_ready("nope")


def bad_requests() -> dict[str, tuple[oip.ModelInferRequest, str]]:
    short = request(datatype="FP32", shape=[2])
    short.raw_input_contents.append(b"123")
    mixed = request(datatype="FP32", shape=[1])
    mixed.inputs[0].contents.fp32_contents.append(1)
    mixed.raw_input_contents.append(bytes(4))
    wrong_field = request(datatype="FP32", shape=[1])
    wrong_field.inputs[0].contents.int_contents.append(1)
    negative = request(datatype="FP32", shape=[-1])
    negative.raw_input_contents.append(bytes(4))
    huge = request(datatype="FP32", shape=[2**40, 2**40])
    huge.raw_input_contents.append(bytes(4))
    unknown_type = request(datatype="FP99", shape=[1])
    unknown_type.raw_input_contents.append(bytes(4))
    too_few = request(datatype="FP32", shape=[1])
    too_few.inputs.add(name="y", datatype="FP32", shape=[1])
    too_few.raw_input_contents.append(bytes(4))
    too_many = request(datatype="FP32", shape=[1])
    too_many.raw_input_contents.extend([bytes(4), bytes(4)])
    twice = request(datatype="FP32", shape=[1])
    twice.inputs.add(name="x", datatype="FP32", shape=[1])
    twice.raw_input_contents.extend([bytes(4), bytes(4)])
    unknown_output = request(datatype="FP32", shape=[1])
    unknown_output.raw_input_contents.append(bytes(4))
    unknown_output.outputs.add(name="logits")
    output_twice = request(datatype="FP32", shape=[1])
    output_twice.raw_input_contents.append(bytes(4))
    output_twice.outputs.add(name="x")
    output_twice.outputs.add(name="x")
    truncated = request(datatype="BYTES", shape=[1])
    truncated.raw_input_contents.append(b"\x05\0\0\0ab")
    two_versions = oip.ModelInferRequest(model_name="identity@1", model_version="2")
    bad_version = oip.ModelInferRequest(model_name="identity", model_version="0")
    return {
        "raw bytes of the wrong length": (short, "inputs.x"),
        "typed and raw": (mixed, "inputs.x"),
        "typed in the wrong field": (wrong_field, "inputs.x"),
        "a negative dimension": (negative, "inputs.x"),
        "an absurd shape": (huge, "inputs.x"),
        "an unknown datatype": (unknown_type, "inputs.x"),
        "too few raw tensors": (too_few, "raw_input_contents"),
        "too many raw tensors": (too_many, "raw_input_contents"),
        "an input twice": (twice, "inputs.x"),
        "an unknown output": (unknown_output, "outputs.logits"),
        "an output twice": (output_twice, "outputs.x"),
        "a truncated text": (truncated, "inputs.x"),
        "no model name": (oip.ModelInferRequest(), "model_name"),
        "two versions": (two_versions, "model_version"),
        "no version number": (bad_version, "model_version"),
    }


@pytest.mark.parametrize("case", bad_requests())
async def test_bad_requests_name_the_field(rig: NodeRig, case: str) -> None:
    asked, field = bad_requests()[case]
    error = await refusal(rig.stub.ModelInfer(asked))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.field == field
    assert field.rpartition(".")[2] in error.message


async def test_statistics_count_per_version_what_was_asked_of_it(client, rig: NodeRig) -> None:
    async def counts(name: str = "", version: str = "") -> dict[str, tuple[int, int]]:
        answer = await client.get_inference_statistics(name, version)
        stats = {each.version: each.inference_stats for each in answer.model_stats}
        return {version: (each.success.count, each.fail.count) for version, each in stats.items()}

    before = await counts("identity")
    await client.infer("identity", [tensor_of("x", np.zeros(3))], model_version="1")
    await refusal(rig.stub.ModelInfer(bad_requests()["an input twice"][0]))
    after = await counts("identity")
    added = {v: (after[v][0] - before[v][0], after[v][1] - before[v][1]) for v in after}
    assert added == {"1": (1, 0), "2": (0, 1)}
    assert await counts() == await counts("identity")
    assert set(await counts("identity", "2")) == set(await counts("identity@2")) == {"2"}
    for name, version in (("nope", ""), ("identity", "7")):
        asked = oip.ModelStatisticsRequest(name=name, version=version)
        assert isinstance(await refusal(rig.stub.ModelStatistics(asked)), ModelNotFound)


@pytest.mark.parametrize(
    "method",
    [
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
        "LogSettings",
    ],
)
async def test_what_is_not_offered_says_so(rig: NodeRig, method: str) -> None:
    error = await refusal(getattr(rig.stub, method)(getattr(oip, f"{method}Request")()))
    assert isinstance(error, Unimplemented)
    assert error.message == f"{method} is not offered by this server"


async def test_a_tensor_in_shared_memory_is_refused_by_a_node(rig: NodeRig) -> None:
    shared = request(datatype="FP32", shape=[1])
    shared.inputs[0].parameters["shared_memory_region"].string_param = "r"
    assert isinstance(await refusal(rig.stub.ModelInfer(shared)), Unimplemented)


async def test_a_stream_answers_in_order_and_survives_a_failure(client) -> None:
    async def feed():
        for model, value in (("identity", 1), ("nope", 2), ("identity", 3)):
            inputs = [tensor_of("x", np.array([value]))]
            yield {"model_name": model, "inputs": inputs, "request_id": str(value)}

    pairs = [pair async for pair in client.stream_infer(feed())]
    assert [pair[0].as_numpy("x").tolist() for pair in (pairs[0], pairs[2])] == [[1], [3]]
    assert "nope" in pairs[1][1].message()
    assert pairs[0][0].get_response().parameters["triton_final_response"].bool_param


async def test_a_stream_that_lasts_does_not_hold_a_version(rig: NodeRig) -> None:
    call = rig.stub.ModelStreamInfer()
    await call.write(oip.ModelInferRequest(model_name="identity", model_version="1"))
    assert (await call.read()).infer_response.model_name == "identity"
    assert await rig.table.wait_until_idle(("identity", 1), 5)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_a_timeout_and_a_priority_are_taken(client) -> None:
    inputs = [tensor_of("x", np.zeros(1))]
    await client.infer("identity", inputs, timeout=10_000_000)
    await client.infer("identity", inputs, priority=1)


async def test_identity_draws_its_compute_under_the_call(rig: NodeRig) -> None:
    rig.exporter.clear()
    await rig.stub.ModelInfer(oip.ModelInferRequest(model_name="identity"))
    spans = await rig.spans("ModelInfer")
    assert set(spans) == {"ModelInfer", "compute"}
    assert spans["compute"].parent.span_id == spans["ModelInfer"].context.span_id
    assert spans["ModelInfer"].attributes["ringmesh.node"] == NODE


async def test_a_large_tensor_goes_both_ways(rig: NodeRig) -> None:
    array = np.arange(4_000_000, dtype=np.float32)
    asked = request(datatype="FP32", shape=array.shape)
    asked.raw_input_contents.append(array.tobytes())
    answer = await rig.stub.ModelInfer(asked)
    assert answer.raw_output_contents[0] == asked.raw_input_contents[0]


async def test_a_model_in_use_outlives_its_removal(rig: NodeRig) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def use() -> None:
        await rig.table.resolve("identity", "1", None)
        entered.set()
        await leave.wait()

    user = asyncio.create_task(use())
    await entered.wait()
    assert not await rig.table.wait_until_idle(("identity", 1), 0)
    leave.set()
    assert await rig.table.wait_until_idle(("identity", 1), 5)
    await user
