"""The Open Inference Protocol over gRPC through the gateway, by an unmodified tritonclient."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from mesh.pb import inference_pb2 as oip
from mesh.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.integration.gateway_rig import Rig, make_deployment, make_watch

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def client(gateway: Rig) -> AsyncIterator[triton.InferenceServerClient]:
    async with triton.InferenceServerClient(gateway.grpc) as opened:
        yield opened


def make_input(name: str = "x", values=(1.0, 2.0)) -> triton.InferInput:
    array = np.array(values, dtype=np.float32)
    tensor = triton.InferInput(name, list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    return tensor


async def test_health_and_metadata(client) -> None:
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert (await client.get_server_metadata()).name == "ringmesh"
    assert await client.is_model_ready("minilm@champion")
    metadata = await client.get_model_metadata("minilm", "1")
    assert metadata.inputs[0].name == "text"
    assert (await client.get_model_config("minilm")).config.max_batch_size == 4


async def test_an_inference_passes_through(client) -> None:
    result = await client.infer("identity", [make_input()], request_id="r-1")
    assert result.as_numpy("x").tolist() == [1.0, 2.0]
    assert result.get_response().id == "r-1"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
async def test_compressed_calls_are_accepted(client, algorithm: str) -> None:
    result = await client.infer("identity", [make_input()], compression_algorithm=algorithm)
    assert result.as_numpy("x").tolist() == [1.0, 2.0]


async def test_the_receipt_comes_back_and_the_route_goes_out(gateway: Rig, stub) -> None:
    request = oip.ModelInferRequest(model_name="identity@champion")
    call = stub.ModelInfer(request, metadata=[("x-session-id", "s-1"), ("x-request-id", "r-1")])
    await call
    received = dict(await call.initial_metadata())
    assert received["x-ringmesh-node"] == "node-1"
    assert received["x-ringmesh-version"] == "1"
    sent = gateway.node.metadata[-1]
    assert sent["x-ringmesh-model"] == "identity@champion"
    assert sent["x-ringmesh-affinity"] == sent["x-session-id"] == "s-1"
    assert sent["x-request-id"] == "r-1"


async def test_a_sequence_has_a_key_and_nothing_has_none(gateway: Rig, client) -> None:
    await client.infer("identity", [make_input()], sequence_id=7)
    assert "x-ringmesh-affinity" in gateway.node.metadata[-1]
    await client.infer("identity", [make_input()])
    assert "x-ringmesh-affinity" not in gateway.node.metadata[-1]


async def test_the_version_field_becomes_part_of_the_reference(gateway: Rig, client) -> None:
    await client.infer("identity", [make_input()], model_version="1")
    assert gateway.node.metadata[-1]["x-ringmesh-model"] == "identity@1"


@pytest.mark.parametrize(
    ("name", "version", "code", "named"),
    [
        ("nope", "", grpc.StatusCode.NOT_FOUND, "nope"),
        ("Not A Name", "", grpc.StatusCode.NOT_FOUND, "Not A Name"),
        ("minilm", "7", grpc.StatusCode.NOT_FOUND, "minilm@7"),
        ("minilm@nobody", "", grpc.StatusCode.NOT_FOUND, "champion"),
        ("minilm@champion", "1", grpc.StatusCode.INVALID_ARGUMENT, "give one of them"),
        ("", "", grpc.StatusCode.INVALID_ARGUMENT, "model_name"),
    ],
)
async def test_a_wrong_model_is_named(stub, name, version, code, named) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(oip.ModelInferRequest(model_name=name, model_version=version))
    assert caught.value.code() is code
    assert named in caught.value.details()


async def test_a_model_without_a_ready_node_says_its_state(gateway: Rig, client) -> None:
    gateway.watch.now = make_watch(make_deployment("slow", "identity")).now
    assert not await client.is_model_ready("slow")
    with pytest.raises(InferenceServerException, match="LOADING") as caught:
        await client.infer("slow", [make_input()])
    assert caught.value.status() == "StatusCode.UNAVAILABLE"


async def test_the_nodes_refusal_keeps_code_and_details(stub) -> None:
    request = oip.ModelInferRequest(model_name="identity")
    request.inputs.add(name="x", datatype="FP32", shape=[2])
    request.raw_input_contents.append(b"123")
    with pytest.raises(grpc.aio.AioRpcError, match=r"inputs\.x") as caught:
        await stub.ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert any(key == "grpc-status-details-bin" for key, _ in caught.value.trailing_metadata())


async def test_a_lost_node_is_a_clear_unavailable(stub) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="model 'identity@1'") as caught:
        await stub.ModelInfer(lost_request())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def lost_request() -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="identity", model_version="1")
    request.inputs.add(name="reset", datatype="FP32", shape=[0])
    return request


async def test_the_callers_deadline_reaches_the_node(gateway: Rig, stub) -> None:
    await stub.ModelInfer(oip.ModelInferRequest(model_name="identity"), timeout=30)
    assert 10 < gateway.node.time_left_s < 30.1
    await stub.ModelInfer(oip.ModelInferRequest(model_name="identity"))
    assert 59 < gateway.node.time_left_s < 61  # the wire rounds up
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(oip.ModelInferRequest(model_name="identity"), timeout=0.004)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_the_index_lists_versions_with_states(gateway: Rig, client) -> None:
    gateway.watch.now = make_watch(make_deployment("slow", "identity", versions=(2, 3))).now
    index = await client.get_model_repository_index()
    states = {(m.name, m.version): m.state for m in index.models}
    assert states["minilm", "1"] == "READY"
    assert states["slow", "2"] == "LOADING"
    request = oip.RepositoryIndexRequest(ready=True)
    async with grpc.aio.insecure_channel(gateway.grpc) as channel:
        ready = await GRPCInferenceServiceStub(channel).RepositoryIndex(request)
    assert {m.name for m in ready.models} == {"smollm2", "minilm", "identity"}


async def test_statistics_are_the_sum_over_the_nodes_that_hold_a_version(
    gateway: Rig, client
) -> None:
    async def counted(*asked: str) -> dict[tuple[str, str], int]:
        answer = await client.get_inference_statistics(*asked)
        return {(m.name, m.version): m.inference_count for m in answer.model_stats}

    assert await counted() == {("identity", "1"): 3, ("minilm", "1"): 3}
    for asked in (("minilm",), ("minilm@champion",), ("minilm@1",), ("minilm", "1")):
        assert await counted(*asked) == {("minilm", "1"): 3}
    with pytest.raises(InferenceServerException, match="nope") as caught:
        await counted("nope")
    assert caught.value.status() == "StatusCode.NOT_FOUND"
    gateway.watch.now = make_watch(make_deployment("slow", "identity")).now
    with pytest.raises(InferenceServerException, match="LOADING"):
        await counted("slow")


async def test_statistics_without_one_of_the_nodes_are_refused(gateway: Rig, client) -> None:
    gateway.node.is_mute = True
    with pytest.raises(
        InferenceServerException, match=f":{gateway.node_port} does not ans"
    ) as caught:
        await client.get_inference_statistics("minilm")
    assert caught.value.status() == "StatusCode.UNAVAILABLE"


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get_cuda_shared_memory_status", ()),
        ("register_cuda_shared_memory", ("r", b"aGFuZGxl", 0, 8)),
        ("unregister_cuda_shared_memory", ()),
    ],
)
async def test_what_is_not_offered_says_so(client, method: str, arguments: tuple) -> None:
    with pytest.raises(InferenceServerException, match="not offered") as caught:
        await getattr(client, method)(*arguments)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


async def test_system_shared_memory_is_for_this_host_alone(client) -> None:
    elsewhere = {"x-forwarded-for": "203.0.113.7"}
    tensor = triton.InferInput("x", [2], "FP32")
    tensor.set_shared_memory("r", 8)
    for call in (
        client.get_system_shared_memory_status(headers=elsewhere),
        client.register_system_shared_memory("r", "/r", 8, headers=elsewhere),
        client.unregister_system_shared_memory(headers=elsewhere),
        client.infer("identity", [tensor], headers=elsewhere),
    ):
        with pytest.raises(InferenceServerException, match="own host") as caught:
            await call
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    here = {"x-forwarded-for": "203.0.113.7, 127.0.0.1"}
    assert not (await client.get_system_shared_memory_status(headers=here)).regions


async def stream(client, *requests):
    async def feed():
        for request in requests:
            yield request

    return [pair async for pair in client.stream_infer(feed())]


async def test_a_stream_keeps_order_and_survives_errors(client) -> None:
    def request(model: str, value: float) -> dict:
        inputs = [make_input("x", [value])]
        return {"model_name": model, "inputs": inputs, "request_id": str(value)}

    pairs = await stream(client, request("identity", 1), request("nope", 2), request("identity", 3))
    assert [pair[0].as_numpy("x").tolist() for pair in (pairs[0], pairs[2])] == [[1.0], [3.0]]
    assert "nope" in pairs[1][1].message()
    final = pairs[0][0].get_response().parameters["triton_final_response"]
    assert final.bool_param


async def test_a_stream_may_ask_for_real_errors(stub) -> None:
    call = stub.ModelStreamInfer(
        iter([oip.ModelInferRequest(model_name="nope")]), metadata=[("triton_grpc_error", "true")]
    )
    with pytest.raises(grpc.aio.AioRpcError, match="nope") as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_many_calls_at_once(client) -> None:
    results = await asyncio.gather(
        *(client.infer("identity", [make_input("x", [i])]) for i in range(100))
    )
    assert [result.as_numpy("x")[0] for result in results] == list(range(100))


async def test_the_trace_settings_of_an_unknown_model_are_refused_in_tritons_words(client) -> None:
    with pytest.raises(
        InferenceServerException, match="Request for unknown model : nope"
    ) as caught:
        await client.get_trace_settings(model_name="nope")
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
