"""The Open Inference Protocol over REST through the gateway: tritonclient, and raw bad input."""

import asyncio
import gzip
import json
import struct
import time
import zlib
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

from tests.integration.gateway_rig import MAX_BODY_BYTES, Rig, make_deployment, make_watch

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def client(gateway: Rig) -> AsyncIterator[triton.InferenceServerClient]:
    async with triton.InferenceServerClient(gateway.http) as opened:
        yield opened


def make_input(name: str, array: np.ndarray, datatype: str, *, binary: bool) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


async def test_health_metadata_and_names_with_aliases(client) -> None:
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("minilm@champion")
    assert not await client.is_model_ready("nope")
    assert "binary_tensor_data" in (await client.get_server_metadata())["extensions"]
    metadata = await client.get_model_metadata("minilm@champion")
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    config = await client.get_model_config("minilm", "1")
    assert config["max_batch_size"] == 4


async def test_statistics_have_triton_s_form(http, client) -> None:
    everything = (await client.get_inference_statistics())["model_stats"]
    assert [(each["name"], each["version"]) for each in everything] == [
        ("identity", "1"),
        ("minilm", "1"),
    ]
    for path in ("minilm", "minilm%40champion", "minilm/versions/1"):
        answer = await http.get(f"/v2/models/{path}/stats")
        assert answer.status_code == 200
        (counts,) = answer.json()["model_stats"]
        assert counts["last_inference"] == 77
        assert counts["inference_stats"]["success"] == {"count": 2, "ns": 2**40}
    assert (await http.get("/v2/models/nope/stats")).status_code == 404


async def test_the_index_is_an_array(gateway: Rig, client) -> None:
    gateway.watch.now = make_watch(make_deployment("slow", "identity")).now
    index = await client.get_model_repository_index()
    assert {entry["name"]: entry["state"] for entry in index}["slow"] == "LOADING"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("BOOL", np.array([[True], [False]])),
        ("UINT64", np.array([2**64 - 1], dtype=np.uint64)),
        ("FP32", np.array([[0.1, -3.5e10]], dtype=np.float32)),
        ("BYTES", np.array([b"", "grüße".encode()], dtype=np.object_)),
    ],
    ids=["BOOL", "UINT64", "FP32", "BYTES"],
)
async def test_tensors_travel_in_both_forms(
    client, datatype, array, binary_in: bool, binary_out: bool
) -> None:
    result = await client.infer(
        "identity",
        [make_input("x", array, datatype, binary=binary_in)],
        outputs=[triton.InferRequestedOutput("x", binary_data=binary_out)],
        request_id="r-1",
    )
    got = result.as_numpy("x")
    if datatype == "BYTES" and not binary_out:
        got = np.array([each.encode() for each in got], dtype=np.object_)
    assert got.tolist() == array.tolist()
    assert result.get_response()["id"] == "r-1"
    assert result.get_response()["model_version"] == "1"


async def test_several_inputs_in_mixed_forms_and_one_requested_output(client) -> None:
    inputs = [
        make_input("a", np.array([1.0], dtype=np.float32), "FP32", binary=True),
        make_input("b", np.array([2, 3]), "INT64", binary=False),
        make_input("c", np.array([4.0], dtype=np.float32), "FP32", binary=True),
    ]
    result = await client.infer("identity", inputs)  # every output in binary
    assert [result.as_numpy(name).tolist() for name in "abc"] == [[1.0], [2, 3], [4.0]]
    outputs = [triton.InferRequestedOutput("c", binary_data=False)]
    only = await client.infer("identity", inputs, outputs=outputs)
    assert only.as_numpy("c").tolist() == [4.0]
    assert only.as_numpy("a") is None


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
async def test_bodies_are_compressed_both_ways(client, algorithm: str) -> None:
    result = await client.infer(
        "identity",
        [make_input("x", np.zeros(200_000, dtype=np.uint8), "UINT8", binary=True)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert len(result.as_numpy("x")) == 200_000


BODY = {"inputs": [{"name": "x", "datatype": "INT32", "shape": [1], "data": [1]}]}
PATH = "/v2/models/identity/infer"


async def test_the_answer_names_its_node_and_version(gateway: Rig, http) -> None:
    answer = await http.post(PATH, json=BODY, headers={"x-session-id": "s-1"})
    assert answer.headers["x-ringmesh-node"] == "node-1"
    assert answer.headers["x-ringmesh-version"] == "1"
    assert answer.json()["outputs"][0]["data"] == [1]
    assert gateway.node.metadata[-1]["x-ringmesh-affinity"] == "s-1"
    assert gateway.node.metadata[-1]["x-ringmesh-model"] == "identity"


async def test_an_answer_does_not_wait_for_the_clients_acknowledgement(http) -> None:
    began = time.perf_counter()
    for _ in range(50):
        await http.post(PATH, json=BODY)
    assert time.perf_counter() - began < 50 * 0.04  # the delay of an ACK


async def test_a_session_id_that_metadata_cannot_hold_still_ties(gateway: Rig, http) -> None:
    for _ in range(2):
        answer = await http.post(PATH, json=BODY, headers={"x-session-id": "grüße".encode()})
        assert answer.status_code == 200
    first, second = gateway.node.metadata[-2:]
    assert first["x-ringmesh-affinity"] == second["x-ringmesh-affinity"]
    assert "x-session-id" not in first


async def test_percent_encoded_names_and_versions_in_the_path(gateway: Rig, http) -> None:
    for path, model in (
        ("/v2/models/identity%40champion/infer", "identity@champion"),
        ("/v2/models/identity/versions/1/infer", "identity@1"),
    ):
        assert (await http.post(path, json=BODY)).status_code == 200
        assert gateway.node.metadata[-1]["x-ringmesh-model"] == model


async def test_a_full_queue_says_when_to_come_back(http) -> None:
    body = {"inputs": [{"name": "full", "datatype": "INT32", "shape": [1], "data": [1]}]}
    answer = await http.post(PATH, json=body)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert "waiting" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/nowhere", 404),
        ("DELETE", "/v2", 405),
        ("GET", PATH, 405),
        ("GET", "/v2/models/nope", 404),
        ("GET", "/v2/models/nope/ready", 404),
        ("GET", "/v2/models/minilm/versions/9", 404),
        ("GET", "/v2/models/minilm%40champion/versions/2", 400),
        ("GET", "/v2/models/%ff%fe", 404),
    ],
)
async def test_wrong_paths_get_json(http, method: str, path: str, status: int) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}


TENSOR = BODY["inputs"][0]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "JSON"),
        (b'{"inputs": [', "JSON"),
        (b"[]", "body"),
        (b"\xff", "JSON"),
        (b'{"inputs": 1}', "inputs"),
        (b"{}", "inputs"),
        (json.dumps({"inputs": [1]}), "inputs[0]"),
        (json.dumps({"inputs": [{**TENSOR, "name": 1}]}), "inputs[0].name"),
        (json.dumps({"inputs": [{**TENSOR, "shape": [1.5]}]}), "inputs.x.shape"),
        (json.dumps({"inputs": [{**TENSOR, "shape": ["1"]}]}), "inputs.x.shape"),
        (json.dumps({"inputs": [{**TENSOR, "shape": [2]}]}), "inputs.x"),
        (json.dumps({"inputs": [{**TENSOR, "datatype": "FP99"}]}), "FP99"),
        (json.dumps({"inputs": [{**TENSOR, "data": ["a"]}]}), "inputs.x"),
        (json.dumps({"inputs": [{k: v for k, v in TENSOR.items() if k != "data"}]}), "data"),
        (json.dumps({"inputs": [{**TENSOR, "data": [2**31]}]}), "out of the range"),
        (json.dumps({"inputs": [TENSOR], "parameters": {"a": [1]}}), "parameters.a"),
        (json.dumps({"inputs": [TENSOR], "parameters": {"a": 2**65}}), "parameters.a"),
        (json.dumps({"inputs": [TENSOR], "outputs": [{}]}), "outputs[0].name"),
        (json.dumps({"inputs": [TENSOR], "id": 1}), "id"),
        (b"[" * 100_000, "JSON"),
    ],
)
async def test_wrong_bodies_are_named(http, body: bytes | str, named: str) -> None:
    answer = await http.post(PATH, content=body)
    assert answer.status_code == 400
    assert named in answer.json()["error"]


def binary_body(size: int, blob: bytes) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1]}
    text = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": size}}]}).encode()
    return text + blob, {"Inference-Header-Content-Length": str(len(text))}


@pytest.mark.parametrize(
    ("size", "blob", "named"),
    [
        (8, bytes(4), "8 binary bytes"),
        (4, bytes(5), "1 bytes follow"),
        (-1, b"", "number of bytes"),
    ],
)
async def test_binary_parts_that_do_not_fit_are_refused(http, size, blob, named) -> None:
    content, headers = binary_body(size, blob)
    answer = await http.post(PATH, content=content, headers=headers)
    assert (answer.status_code, named in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize("length", ["99", "-1", "x"])
async def test_a_wrong_header_length_is_refused(http, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    answer = await http.post(PATH, content=b"{}", headers=headers)
    assert answer.status_code == 400
    assert "Inference-Header-Content-Length" in answer.json()["error"]


async def test_a_raw_value_comes_back_in_binary(http) -> None:
    content, headers = binary_body(4, struct.pack("<f", 1.5))
    body = json.loads(content[: int(headers["Inference-Header-Content-Length"])])
    text = json.dumps({**body, "parameters": {"binary_data_output": True}}).encode()
    headers["Inference-Header-Content-Length"] = str(len(text))
    answer = await http.post(PATH, content=text + struct.pack("<f", 1.5), headers=headers)
    length = int(answer.headers["inference-header-content-length"])
    output = json.loads(answer.content[:length])["outputs"][0]
    assert output["parameters"] == {"binary_data_size": 4}
    assert answer.content[length:] == struct.pack("<f", 1.5)


async def test_a_declared_length_over_the_limit_is_refused_unread(gateway: Rig) -> None:
    reader, writer = await asyncio.open_connection(*gateway.http.split(":"))
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {200 * 1024 * 1024}\r\n\r\n"
    writer.write(head.encode())  # and not one byte of the body
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    assert str(MAX_BODY_BYTES).encode() in await reader.readuntil(b"}")
    writer.close()


async def test_a_client_that_sends_it_all_still_sees_the_refusal(http) -> None:
    answer = await http.post(PATH, content=bytes(40 * MAX_BODY_BYTES))
    assert answer.status_code == 413


async def test_a_body_of_undeclared_length_is_cut_at_the_limit(http) -> None:
    async def chunks():
        for _ in range(64):
            yield bytes(64 * 1024)

    answer = await http.post(PATH, content=chunks())
    assert answer.status_code == 413


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_small_body_that_inflates_over_the_limit_is_refused(http, encoding: str) -> None:
    plain = bytes(100 * MAX_BODY_BYTES)
    packed = gzip.compress(plain) if encoding == "gzip" else zlib.compress(plain)
    answer = await http.post(PATH, content=packed, headers={"content-encoding": encoding})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("encoding", "body"), [("gzip", b"not gzip"), ("br", b"x"), ("gzip", gzip.compress(b"{}")[:-4])]
)
async def test_broken_compression_is_refused(http, encoding: str, body: bytes) -> None:
    answer = await http.post(PATH, content=body, headers={"content-encoding": encoding})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get_cuda_shared_memory_status", ()),
        ("get_cuda_shared_memory_status", ("r",)),
        ("register_cuda_shared_memory", ("r", b"aGFuZGxl", 0, 8)),
        ("unregister_cuda_shared_memory", ()),
        ("unregister_cuda_shared_memory", ("r",)),
    ],
)
async def test_cuda_shared_memory_is_refused_in_a_sentence(client, method, arguments) -> None:
    with pytest.raises(InferenceServerException, match="CUDA shared memory is not off") as caught:
        await getattr(client, method)(*arguments)
    assert caught.value.status() == "501"


async def test_system_shared_memory_is_for_this_host_alone(client) -> None:
    elsewhere = {"x-forwarded-for": "203.0.113.7"}
    for call in (
        client.get_system_shared_memory_status(headers=elsewhere),
        client.register_system_shared_memory("r", "/r", 8, headers=elsewhere),
        client.unregister_system_shared_memory(headers=elsewhere),
    ):
        with pytest.raises(InferenceServerException, match="own host") as caught:
            await call
        assert caught.value.status() == "501"
    here = {"x-forwarded-for": "127.0.0.1"}
    assert await client.get_system_shared_memory_status(headers=here) == []


async def test_errors_of_the_client_library_carry_status_and_text(client) -> None:
    tensor = make_input("x", np.zeros(1, dtype=np.float32), "FP32", binary=True)
    with pytest.raises(InferenceServerException, match="nope") as caught:
        await client.infer("nope", [tensor])
    assert caught.value.status() == "404"
