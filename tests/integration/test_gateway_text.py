"""Language models through the gateway in Triton's ways: streams over gRPC, `generate` over REST."""

import asyncio
import json
import os
import queue
from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from mesh.pb import inference_pb2 as oip
from mesh.tensor import encode_raw
from mesh.text_inference import read_text_output
from services.gateway.shared_memory import FOLDER
from tests.integration.gateway_node_servicer import WORDS, text_of
from tests.integration.gateway_rig import Rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v2/models/smollm2"


def request(text: str, name: str = "r-1", model: str = "smollm2") -> oip.ModelInferRequest:
    made = oip.ModelInferRequest(model_name=model, id=name)
    tensor = made.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(text.encode())
    return made


def events_of(answer: httpx.Response) -> list[dict]:
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = answer.text.removesuffix("\n\n").split("\n\n")
    return [json.loads(each.removeprefix("data: ")) for each in frames]


async def test_a_stream_brings_pieces_and_what_they_took(gateway: Rig, stub) -> None:
    responses = [each.infer_response async for each in stub.ModelStreamInfer(iter([request("Hi")]))]
    assert "".join(map(read_text_output, responses)) == text_of()
    assert len(responses) == WORDS + 1
    finals = [each.parameters["triton_final_response"].bool_param for each in responses]
    assert finals == [False] * WORDS + [True]
    last = responses[-1]
    assert last.parameters["completion_tokens"].int64_param == WORDS
    assert last.parameters["finish_reason"].string_param == "stop"
    assert {(each.id, each.model_version) for each in responses} == {("r-1", "1")}
    assert "x-ringmesh-affinity" in gateway.node.metadata[-1]


@pytest.fixture
def prompt_in_memory() -> Iterator[tuple[str, int]]:
    """A shared memory object that is a prompt, and its size."""
    raw = encode_raw(np.array([b"from memory"], np.object_), "BYTES")
    place = FOLDER / f"ringmesh-test-{os.getpid()}"
    place.write_bytes(raw)
    yield f"/{place.name}", len(raw)
    place.unlink()


async def test_a_stream_reads_its_text_from_shared_memory(
    gateway: Rig, stub, prompt_in_memory: tuple[str, int]
) -> None:
    here = (("x-forwarded-for", "127.0.0.1"),)
    key, size = prompt_in_memory
    region = oip.SystemSharedMemoryRegisterRequest(name="text", key=key, byte_size=size)
    await stub.SystemSharedMemoryRegister(region, metadata=here)
    asked = request("")
    asked.inputs[0].ClearField("contents")
    asked.inputs[0].parameters["shared_memory_region"].string_param = "text"
    asked.inputs[0].parameters["shared_memory_byte_size"].int64_param = size
    responses = [each async for each in stub.ModelStreamInfer(iter([asked]), metadata=here)]
    assert not any(each.error_message for each in responses)
    assert gateway.node.generations[-1].text == "from memory"
    asked.outputs.add(name="text_output").parameters["shared_memory_region"].string_param = "text"
    (told,) = [each async for each in stub.ModelStreamInfer(iter([asked]), metadata=here)]
    assert told.error_message.startswith("outputs.text_output: what comes in pieces")
    await stub.SystemSharedMemoryUnregister(
        oip.SystemSharedMemoryUnregisterRequest(name="text"), metadata=here
    )


async def test_a_stream_outlives_the_node_that_dies(gateway: Rig, stub) -> None:
    gateway.node.deaths = [5]
    responses = [each.infer_response async for each in stub.ModelStreamInfer(iter([request("Hi")]))]
    assert "".join(map(read_text_output, responses)) == text_of()


async def test_a_whole_answer_is_the_streams_text_by_the_same_route(gateway: Rig, stub) -> None:
    responses = [each.infer_response async for each in stub.ModelStreamInfer(iter([request("Hi")]))]
    call = stub.ModelInfer(request("Hi"))
    whole = await call
    assert read_text_output(whole) == "".join(map(read_text_output, responses)) == text_of()
    assert (whole.id, whole.model_name, whole.model_version) == ("r-1", "smollm2", "1")
    facts = dict(whole.parameters.items())
    assert facts["completion_tokens"].int64_param == WORDS
    assert facts["finish_reason"].string_param == "stop"
    assert "triton_final_response" not in facts
    assert dict(await call.initial_metadata())["x-ringmesh-node"] == "node-1"
    streamed, asked = (each["x-ringmesh-affinity"] for each in gateway.node.metadata)
    assert asked == streamed


async def test_a_whole_answer_outlives_the_node_that_dies(gateway: Rig, stub, http) -> None:
    gateway.node.deaths = [5]
    assert read_text_output(await stub.ModelInfer(request("Hi"))) == text_of()
    assert list(gateway.node.generations[-1].resume_token_ids) == list(range(5))
    gateway.node.deaths = [3]
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["Hi"]}
    answer = await http.post(f"{PATH}/infer", json={"inputs": [tensor]})
    assert answer.json()["outputs"][0]["data"] == [text_of()]


async def test_leaving_a_whole_answer_frees_the_node(gateway: Rig, stub) -> None:
    call = stub.ModelInfer(request("stall"))
    async with asyncio.timeout(5):
        await gateway.node.stalled.wait()
        call.cancel()
        await gateway.node.cancelled.wait()


@pytest.mark.parametrize(("level", "priority"), [(0, 0), (1, -1), (2, 0), (5, 3), (101, 0)])
async def test_a_priority_reaches_the_scheduler(
    gateway: Rig, stub, level: int, priority: int
) -> None:
    asked = request("Hi")
    asked.parameters["priority"].uint64_param = level
    await stub.ModelInfer(asked)
    assert gateway.node.generations[-1].priority == priority


async def test_failures_stand_in_the_stream_and_end_nothing(gateway: Rig, stub) -> None:
    wrong = request("Hi", "wrong")
    wrong.parameters["priority"].int64_param = -1
    refused = request("Hi", "refused")
    refused.parameters["temperature"].double_param = 2
    asked = [request("Hi", "nope", "nope"), wrong, refused, request("Hi", "good")]
    responses = [each async for each in stub.ModelStreamInfer(iter(asked))]
    messages = {each.infer_response.id: each.error_message for each in responses}
    assert "nope" in messages["nope"]
    assert "priority" in messages["wrong"]
    assert "9 tokens of 8" in messages["refused"]
    assert messages["good"] == ""


async def test_a_stream_may_ask_for_real_errors(stub) -> None:
    metadata = [("triton_grpc_error", "true")]
    call = stub.ModelStreamInfer(iter([request("Hi", model="minilm@9")]), metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError, match="minilm@9") as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_leaving_a_stream_frees_the_node(gateway: Rig, stub) -> None:
    call = stub.ModelStreamInfer()
    await call.write(request("stall"))
    async with asyncio.timeout(5):
        await gateway.node.stalled.wait()
        call.cancel()
        await gateway.node.cancelled.wait()


async def test_a_timeout_ends_a_generation_in_the_stream(gateway: Rig, stub) -> None:
    stalled = request("stall")
    stalled.parameters["timeout"].int64_param = 100_000
    responses = [each async for each in stub.ModelStreamInfer(iter([stalled]))]
    assert "did not answer within" in responses[-1].error_message


async def test_the_callback_client_streams(gateway: Rig) -> None:
    got: queue.Queue = queue.Queue()

    def talk() -> list:
        tensor = triton.InferInput("text_input", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([b"Hi"], dtype=np.object_))
        with triton.InferenceServerClient(gateway.grpc) as client:
            client.start_stream(lambda result, error: got.put((result, error)))
            for _ in range(2):
                client.async_stream_infer("smollm2", [tensor], enable_empty_final_response=True)
            client.stop_stream()  # waits for what is pending
        return list(got.queue)

    pairs = await asyncio.to_thread(talk)
    assert [error for _, error in pairs if error] == []
    responses = [result.get_response() for result, _ in pairs]
    assert len(responses) == 2 * (WORDS + 1)
    assert sum(not each.outputs for each in responses) == 2


@pytest.mark.parametrize("path", [PATH, f"{PATH}/versions/1", f"{PATH}%40champion"])
async def test_generate_answers_with_the_whole_text(http, path: str) -> None:
    body = {"id": "r-1", "text_input": "Hi", "parameters": {"max_tokens": 20, "stream": False}}
    answer = await http.post(f"{path}/generate", json=body)
    assert answer.status_code == 200
    assert answer.headers["x-ringmesh-node"] == "node-1"
    assert answer.headers["x-ringmesh-version"] == "1"
    assert answer.json() == {
        "id": "r-1",
        "model_name": "smollm2",
        "model_version": "1",
        "text_output": text_of(),
        "prompt_tokens": 5,
        "completion_tokens": WORDS,
        "finish_reason": "stop",
    }


async def test_keys_beside_the_text_are_parameters(gateway: Rig, http) -> None:
    body = {"text_input": "Hi", "max_tokens": 3, "parameters": {"seed": 7, "top_p": 0.5}}
    answer = await http.post(f"{PATH}/generate", json=body)
    assert answer.json()["text_output"] == text_of(3)
    (asked,) = gateway.node.generations
    assert (asked.model_name, asked.text) == ("smollm2", "Hi")
    assert (asked.max_tokens, asked.sampling.seed, asked.sampling.top_p) == (3, 7, 0.5)


async def test_what_is_said_twice_alike_is_taken_once(gateway: Rig, http) -> None:
    body = {"text_input": "Hi", "max_tokens": 3, "parameters": {"max_tokens": 3}}
    assert (await http.post(f"{PATH}/generate", json=body)).json()["text_output"] == text_of(3)
    assert [asked.max_tokens for asked in gateway.node.generations] == [3]


@pytest.mark.parametrize("path", ["generate", "generate_stream"])
async def test_a_text_that_names_no_end_gets_sixteen_tokens(gateway: Rig, http, path: str) -> None:
    await http.post(f"{PATH}/{path}", json={"text_input": "Hi"})
    assert [asked.max_tokens for asked in gateway.node.generations] == [16]


async def test_generate_stream_brings_an_event_per_piece(http) -> None:
    answer = await http.post(f"{PATH}/generate_stream", json={"text_input": "Hi", "stream": True})
    events = events_of(answer)
    assert answer.headers["x-ringmesh-node"] == "node-1"
    assert "".join(each["text_output"] for each in events) == text_of()
    assert {(each["model_name"], each["model_version"]) for each in events} == {("smollm2", "1")}
    assert events[-1]["finish_reason"] == "stop"
    assert "finish_reason" not in events[0]


async def test_an_error_in_the_stream_is_its_last_event(gateway: Rig, http) -> None:
    gateway.node.deaths = [2, 2, 2]
    events = events_of(await http.post(f"{PATH}/generate_stream", json={"text_input": "Hi"}))
    assert "smollm2" in events[-1]["error"]
    assert "".join(each["text_output"] for each in events[:-1]) == text_of(6)


async def test_leaving_generate_stream_frees_the_node(gateway: Rig, http) -> None:
    body = {"text_input": "stall"}
    async with asyncio.timeout(5), http.stream("POST", f"{PATH}/generate_stream", json=body):
        await gateway.node.stalled.wait()
    async with asyncio.timeout(5):
        await gateway.node.cancelled.wait()


REFUSED = [
    ("smollm2", {}, 400, "text_input"),
    ("smollm2", {"text_input": 5}, 400, "text_input"),
    ("smollm2", {"text_input": "Hi", "id": 5}, 400, "id"),
    ("smollm2", [], 400, "object"),
    ("smollm2", {"text_input": "Hi", "tempratur": 1}, 400, "tempratur"),
    ("smollm2", {"text_input": "Hi", "parameters": {"max_tokens": "5"}}, 400, "max_tokens"),
    ("smollm2", {"text_input": "Hi", "parameters": {"stream": "x"}}, 400, "stream"),
    ("smollm2", {"text_input": "Hi", "temperature": 2}, 400, "9 tokens of 8"),
    (
        "smollm2",
        {"text_input": "Hi", "max_tokens": 5, "parameters": {"max_tokens": 9}},
        400,
        "parameters.max_tokens and max_tokens beside it",
    ),
    ("smollm2", {"text_input": "Hi", "priority": -1}, 400, "parameters.priority"),
    ("smollm2", {"text_input": "Hi", "sequence_start": True}, 400, "parameters.sequence_start"),
    ("smollm2", {"text_input": "\ud800"}, 400, "JSON"),
    ("identity", {"text_input": "Hi"}, 400, "identity"),
    ("nope", {"text_input": "Hi"}, 404, "nope"),
]


@pytest.mark.parametrize("path", ["generate", "generate_stream"])
@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]}-{case[3]}")
async def test_what_cannot_be_generated_is_refused(http, path: str, case: tuple) -> None:
    model, body, status, named = case
    answer = await http.post(f"/v2/models/{model}/{path}", content=json.dumps(body))
    assert answer.status_code == status, answer.text
    assert named in answer.json()["error"]
