"""What requests ask for beyond tensors: classes, raw bodies, sequences, priorities, timeouts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton
import tritonclient.http.aio as triton_http
from tritonclient.utils import InferenceServerException

from mesh.batching_options import BatchingOptions
from mesh.errors import error_from_rpc
from mesh.pb import inference_pb2 as oip
from services.gateway.oip.config_json import message_to_json
from services.inference.models.tensor_model import Signature, TensorSpec
from tests.integration.echo_model import EchoModel
from tests.integration.oip_rig import Lanes, open_identity_model, open_lanes

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCORES = Signature(
    platform="echo",
    inputs=(TensorSpec("x", "FP32", (-1, 3)),),
    outputs=(TensorSpec("scores", "FP32", (-1, 3), ("cat", "dog", "eel")),),
    batching=BatchingOptions(priority_levels=4, default_priority_level=2),
)
TEXT = Signature(
    platform="echo",
    inputs=(TensorSpec("text", "BYTES", (-1,)),),
    outputs=(TensorSpec("text", "BYTES", (-1,)),),
)
ROWS = np.array([[0.25, 0.5, 0.125], [3, 1, 2]], dtype=np.float32)
RANKED = [["0.500000:1:dog", "0.250000:0:cat"], ["3.000000:0:cat", "2.000000:2:eel"]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scores() -> EchoModel:
    return EchoModel("scores", SCORES)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lanes(scores: EchoModel) -> AsyncIterator[Lanes]:
    models = (scores, EchoModel("text", TEXT), open_identity_model())
    async with open_lanes(*((model, "tensor", "identity") for model in models)) as opened:
        yield opened


def rows(library: Any, name: str = "x", array: np.ndarray = ROWS) -> Any:
    tensor = library.InferInput(name, list(array.shape), "FP32")
    return tensor.set_data_from_numpy(array)


def strings(array: np.ndarray) -> list:
    return [[each.decode() if isinstance(each, bytes) else each for each in row] for row in array]


# --- classification


async def test_classes_come_ranked_per_row_with_labels(client) -> None:
    outputs = [triton.InferRequestedOutput("scores", class_count=2)]
    result = await client.infer("scores", [rows(triton)], outputs=outputs)
    output = result.get_response().outputs[0]
    assert (output.datatype, list(output.shape)) == ("BYTES", [2, 2])
    assert strings(result.as_numpy("scores")) == RANKED


@pytest.mark.parametrize("binary", [True, False])
async def test_classes_over_rest(rest, binary: bool) -> None:
    outputs = [triton_http.InferRequestedOutput("scores", binary_data=binary, class_count=2)]
    result = await rest.infer("scores", [rows(triton_http)], outputs=outputs)
    output = result.get_output("scores")
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert strings(result.as_numpy("scores")) == RANKED


async def test_classes_without_labels_of_one_row_more_than_there_are(client) -> None:
    outputs = [triton.InferRequestedOutput("x", class_count=9)]
    tensor = rows(triton, array=np.array([1, 5, 10, 4], dtype=np.float32))
    result = await client.infer("identity", [tensor], outputs=outputs)
    texts = [each.decode() for each in result.as_numpy("x")]
    assert texts == ["10.000000:2", "5.000000:1", "4.000000:3", "1.000000:0"]


async def test_classes_and_the_tensor_itself_in_one_answer(client) -> None:
    inputs = [rows(triton, "a"), rows(triton, "b")]
    outputs = [triton.InferRequestedOutput("b", class_count=1), triton.InferRequestedOutput("a")]
    result = await client.infer("identity", inputs, outputs=outputs)
    assert [each.name for each in result.get_response().outputs] == ["b", "a"]
    assert result.as_numpy("b").tolist() == [b"3.000000:3"]  # without rows, all is one ranking
    assert np.array_equal(result.as_numpy("a"), ROWS)


async def test_classes_of_what_has_none_are_refused_by_name(http) -> None:
    tensor = {"name": "t", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    for value, said in ((1, "needs numbers"), (-1, "number of classes"), ("2", "number of cl")):
        output = {"name": "t", "parameters": {"classification": value}}
        body = {"inputs": [tensor], "outputs": [output]}
        answer = await http.post("/v2/models/identity/infer", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("outputs.t.parameters.classification: ")
        assert said in answer.json()["error"]


# --- raw bodies

RAW = {"Inference-Header-Content-Length": "0"}


async def test_a_raw_body_is_the_one_input_of_its_model(http) -> None:
    for path in ("scores", "scores%40champion", "scores/versions/1"):
        answer = await http.post(f"/v2/models/{path}/infer", content=ROWS.tobytes(), headers=RAW)
        assert answer.status_code == 200, answer.text
        length = int(answer.headers["inference-header-content-length"])
        document = json.loads(answer.content[:length])
        (output,) = document["outputs"]
        assert (document["model_name"], document["model_version"]) == ("scores", "1")
        assert (output["name"], output["shape"]) == ("scores", [2, 3])
        assert answer.content[length:] == ROWS.tobytes()


async def test_a_raw_body_for_a_model_of_texts_is_one_text(http) -> None:
    answer = await http.post("/v2/models/text/infer", content=b"a\x00\xff", headers=RAW)
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][0]["shape"] == [1]
    assert answer.content[length:] == b"\x03\0\0\0a\x00\xff"


@pytest.mark.parametrize(
    ("model", "body", "status", "named"),
    [
        ("scores", bytes(16), 400, "inputs.x: 16 bytes"),
        ("identity", bytes(4), 400, "Inference-Header-Content-Length: 0 needs"),
        ("nope", bytes(4), 404, "nope"),
    ],
)
async def test_a_raw_body_that_does_not_fit_is_refused(http, model, body, status, named) -> None:
    answer = await http.post(f"/v2/models/{model}/infer", content=body, headers=RAW)
    assert answer.status_code == status
    assert named in answer.json()["error"]


# --- parameters


@pytest.mark.parametrize("sequence", [7, 2**63 - 1, "user-7"])
async def test_sequences_begin_and_end(client, sequence: int | str) -> None:
    marks = {"sequence_id": sequence, "sequence_start": True, "sequence_end": True}
    result = await client.infer("scores", [rows(triton)], **marks)
    assert np.array_equal(result.as_numpy("scores"), ROWS)


async def test_sequences_over_rest(rest) -> None:
    for sequence in (7, "user-7"):
        marks = {"sequence_id": sequence, "sequence_start": True}
        result = await rest.infer("scores", [rows(triton_http)], **marks)
        assert np.array_equal(result.as_numpy("scores"), ROWS)


async def test_a_timeout_reaches_the_model_in_seconds(client, scores: EchoModel) -> None:
    await client.infer("scores", [rows(triton)], timeout=2_500_000)
    assert scores.terms.timeout_s == 2.5
    assert scores.terms.priority == 0


async def test_a_timeout_over_rest_reaches_it_too(rest, scores: EchoModel) -> None:
    await rest.infer("scores", [rows(triton_http)], timeout=1_500_000)
    assert scores.terms.timeout_s == 1.5


async def test_a_priority_reaches_the_model(client, rest, scores: EchoModel) -> None:
    await client.infer("scores", [rows(triton)], priority=3)
    assert scores.terms.priority == 3
    await rest.infer("scores", [rows(triton_http)], priority=4)
    assert scores.terms.priority == 4
    await client.infer("scores", [rows(triton)], priority=5)  # there are four: the default one
    assert scores.terms.priority == 0


async def test_parameters_of_other_names_are_the_models_own(client) -> None:
    parameters = {"mine": "x", "many": 3, "much": 0.5, "really": True}
    await client.infer("scores", [rows(triton)], parameters=parameters)


WRONG = {
    "sequence_start": [{"bool_param": True}],
    "sequence_end": [{"bool_param": True}, {"string_param": "yes"}],
    "sequence_id": [{"bool_param": True}, {"double_param": 1.5}],
    "timeout": [{"int64_param": -1}, {"string_param": "1"}],
    "priority": [{"bool_param": True}, {"int64_param": -1}],
    "triton_mine": [{"bool_param": True}],
    "triton_enable_empty_final_response": [{"int64_param": 1}],
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_parameter_is_named(stub, name: str) -> None:
    for value in WRONG[name]:
        request = oip.ModelInferRequest(model_name="scores", raw_input_contents=[ROWS.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=ROWS.shape)
        request.parameters[name].CopyFrom(oip.InferParameter(**value))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ModelInfer(request)
        error = error_from_rpc(caught.value)
        assert (error.code, error.field) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            f"parameters.{name}",
        )


async def test_a_wrong_parameter_is_named_over_rest(http) -> None:
    body = {"inputs": [], "parameters": {"sequence_start": True}}
    answer = await http.post("/v2/models/identity/infer", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("parameters.sequence_start: ")


NODE_EXTENSIONS = {
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "sequence",
    "sequence(string_id)",
    "statistics",
}
EXTENSIONS = NODE_EXTENSIONS | {"binary_tensor_data", "logging", "system_shared_memory", "trace"}


async def test_the_extensions_are_those_that_there_are_and_no_others(lanes: Lanes, rest) -> None:
    for lane, offered in (("node", NODE_EXTENSIONS), ("gateway", EXTENSIONS)):
        async with triton.InferenceServerClient(lanes.grpc(lane)) as client:
            named = list((await client.get_server_metadata()).extensions)
        assert named == sorted(offered)
    assert (await rest.get_server_metadata())["extensions"] == sorted(EXTENSIONS)


async def test_a_model_without_levels_takes_any(client) -> None:
    result = await client.infer("identity", [rows(triton)], priority=1)
    assert np.array_equal(result.as_numpy("x"), ROWS)


# --- statistics


async def test_statistics_are_the_same_over_both_protocols_and_add_up(lanes: Lanes, rest) -> None:
    async with triton.InferenceServerClient(lanes.gateway) as client:
        before = (await client.get_inference_statistics("scores")).model_stats[0]
        for _ in range(3):
            await client.infer("scores", [rows(triton)])
        with pytest.raises(InferenceServerException):
            await client.infer("scores", [])
        (counts,) = (await client.get_inference_statistics("scores")).model_stats
    assert (await rest.get_inference_statistics("scores"))["model_stats"] == [
        message_to_json(counts)
    ]
    old, new = before.inference_stats, counts.inference_stats
    assert (new.success.count - old.success.count, new.fail.count - old.fail.count) == (3, 1)
    assert counts.execution_count == sum(b.compute_infer.count for b in counts.batch_stats)
    parts = (new.compute_input, new.queue, new.compute_infer, new.compute_output)
    assert sum(part.ns for part in parts) == new.success.ns
    assert (new.cache_hit.count, new.cache_miss.count) == (0, 0)
    assert new.HasField("cache_hit")
    assert not counts.response_stats
    (memory,) = counts.memory_usage
    assert (memory.type, memory.byte_size) == ("CPU", 4096)
