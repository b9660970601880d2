"""Unmodified tritonclient.grpc against the edge."""

import queue
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.e2e.harness import Mesh


@pytest.fixture
def client(mesh: Mesh) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(mesh.edge) as opened:
        yield opened


def text_input(*texts: str) -> triton.InferInput:
    tensor = triton.InferInput("text", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([t.encode() for t in texts], dtype=np.object_))
    return tensor


def test_the_server_is_live_ready_and_describes_itself(client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata.name == "ringmesh"
    assert metadata.version


@pytest.mark.parametrize("model", ["smollm2", "minilm", "identity", "minilm@1"])
def test_models_are_ready(client, model: str) -> None:
    assert client.is_model_ready(model)


def test_model_metadata_names_inputs_and_outputs(client) -> None:
    metadata = client.get_model_metadata("minilm")
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("text", "BYTES", [-1])
    ]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [
        ("embedding", "FP32", [-1, 384])
    ]
    assert list(metadata.versions) == ["1"]


def test_minilm_embeds_text(client) -> None:
    texts = ["a man is eating food", "a man eats a meal", "the sky is blue"]
    result = client.infer("minilm", [text_input(*texts)], request_id="r-1")
    embedding = result.as_numpy("embedding")
    assert embedding.shape == (3, 384)
    assert np.allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
    assert embedding[0] @ embedding[1] > 0.8
    assert embedding[0] @ embedding[2] < 0.3
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("r-1", "minilm", "1")


def test_statistics_count_on_all_nodes(client) -> None:
    def counted() -> tuple[int, int]:
        (counts,) = client.get_inference_statistics("identity", "1").model_stats
        return counts.inference_stats.success.count, counts.inference_count

    before = counted()
    tensor = triton.InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.zeros(1, dtype=np.float32))
    for _ in range(20):  # enough to meet both nodes
        client.infer("identity", [tensor])
    assert counted() == (before[0] + 20, before[1] + 20)
    names = {each.name for each in client.get_inference_statistics().model_stats}
    assert names >= {"smollm2", "minilm", "identity"}


def stream(client, *requests: dict) -> list[tuple]:
    """What a stream brings for these requests, once it has been closed by this side."""
    got: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: got.put((result, error)))
    for request in requests:
        client.async_stream_infer(**request)
    client.stop_stream()  # half-closes, and waits for what is pending
    return list(got.queue)


def prompt(text: str) -> triton.InferInput:
    tensor = triton.InferInput("text_input", [1], "BYTES")
    return tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))


def test_a_language_model_streams_its_text_in_pieces(client) -> None:
    parameters = {"max_tokens": 8, "temperature": 0.0}
    asked = {"model_name": "smollm2", "inputs": [prompt("The capital of France is")]}
    asked["parameters"] = parameters
    whole = client.infer(**asked).as_numpy("text_output")[0].decode()
    pairs = stream(client, asked | {"enable_empty_final_response": True})
    assert [error.message() for _, error in pairs if error] == []
    *pieces, final = [result.get_response() for result, _ in pairs]
    assert len(pieces) > 3
    assert "".join(r.as_numpy("text_output")[0].decode() for r, _ in pairs[:-1]) == whole
    assert not any(each.parameters["triton_final_response"].bool_param for each in pieces)
    assert final.parameters["triton_final_response"].bool_param
    assert not final.outputs
    config = client.get_model_config("smollm2").config
    assert config.model_transaction_policy.decoupled


def test_one_stream_serves_several_models_and_survives_errors(client) -> None:
    tensor = triton.InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.ones(1, dtype=np.float32))
    pairs = stream(
        client,
        {"model_name": "identity", "inputs": [tensor], "request_id": "1"},
        {"model_name": "nope", "inputs": [tensor]},
        {"model_name": "minilm", "inputs": [text_input("hello")], "request_id": "2"},
        {"model_name": "smollm2", "inputs": [prompt("Hi")], "parameters": {"max_tokens": 2}},
    )
    (error,) = [error for _, error in pairs if error]
    assert "nope" in error.message()
    answers = [result for result, error in pairs if not error]
    in_order = [each.get_response().id for each in answers if each.get_response().id]
    assert in_order == ["1", "2"]
    assert any(each.as_numpy("text_output") is not None for each in answers)


def test_a_timeout_is_kept_and_a_level_that_does_not_exist_is_the_default(client) -> None:
    asked = {"inputs": [prompt("Once")], "parameters": {"max_tokens": 1500, "ignore_eos": True}}
    status, _ = failure(client, "smollm2", timeout=300_000, **asked)
    assert status == "StatusCode.DEADLINE_EXCEEDED"
    result = client.infer("smollm2", [prompt("Once")], priority=101, parameters={"max_tokens": 2})
    assert result.as_numpy("text_output") is not None


ARRAYS = [
    np.array([True, False]),
    *(np.array([[0, 1], [2, 3]], dtype=t) for t in (np.uint8, np.uint16, np.uint32, np.uint64)),
    *(np.array([-1, 0, 1], dtype=t) for t in (np.int8, np.int16, np.int32, np.int64)),
    *(np.array([[0.5, -1.25]], dtype=t) for t in (np.float16, np.float32, np.float64)),
    np.array([b"", b"\x00\xff", "grüße".encode()], dtype=np.object_),
    np.zeros((0, 3), dtype=np.float32),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_identity_returns_any_tensor_as_it_was(client, array: np.ndarray) -> None:
    tensor = triton.InferInput("x", list(array.shape), triton_name(array))
    tensor.set_data_from_numpy(array)
    result = client.infer("identity", [tensor])
    assert np.array_equal(result.as_numpy("x"), array)


def triton_name(array: np.ndarray) -> str:
    from tritonclient.utils import np_to_triton_dtype  # noqa: PLC0415

    return np_to_triton_dtype(array.dtype)


def test_identity_takes_several_inputs_and_honours_requested_outputs(client) -> None:
    inputs = []
    for name, value in (("a", 1.0), ("b", 2.0)):
        tensor = triton.InferInput(name, [1], "FP32")
        tensor.set_data_from_numpy(np.array([value], dtype=np.float32))
        inputs.append(tensor)
    result = client.infer("identity", inputs, outputs=[triton.InferRequestedOutput("b")])
    assert result.as_numpy("a") is None
    assert result.as_numpy("b").tolist() == [2.0]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_calls_are_accepted(client, algorithm: str) -> None:
    result = client.infer("minilm", [text_input("hello")], compression_algorithm=algorithm)
    assert result.as_numpy("embedding").shape == (1, 384)


def test_a_large_tensor_goes_both_ways(client) -> None:
    array = np.arange(4_000_000, dtype=np.float32)
    tensor = triton.InferInput("x", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    assert np.array_equal(client.infer("identity", [tensor]).as_numpy("x"), array)


def failure(client, model: str, inputs: list[triton.InferInput], **options) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs, **options)
    return caught.value.status(), caught.value.message()


def test_an_unknown_model_is_named(client) -> None:
    status, message = failure(client, "nope", [text_input("x")])
    assert status == "StatusCode.NOT_FOUND"
    assert "nope" in message


def test_an_unknown_version_is_named(client) -> None:
    status, message = failure(client, "minilm", [text_input("x")], model_version="7")
    assert status == "StatusCode.NOT_FOUND"
    assert "7" in message


def test_a_wrong_datatype_names_the_input(client) -> None:
    tensor = triton.InferInput("text", [1], "FP32")
    tensor.set_data_from_numpy(np.zeros(1, dtype=np.float32))
    status, message = failure(client, "minilm", [tensor])
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "text" in message
    assert "BYTES" in message


def test_a_wrong_shape_names_the_input(client) -> None:
    tensor = triton.InferInput("text", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[b"x"]], dtype=np.object_))
    status, message = failure(client, "minilm", [tensor])
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "text" in message


def test_missing_and_surplus_inputs_are_named(client) -> None:
    status, message = failure(client, "minilm", [])
    assert (status, "text" in message) == ("StatusCode.INVALID_ARGUMENT", True)
    surplus = triton.InferInput("extra", [1], "INT32")
    surplus.set_data_from_numpy(np.zeros(1, dtype=np.int32))
    status, message = failure(client, "minilm", [text_input("x"), surplus])
    assert (status, "extra" in message) == ("StatusCode.INVALID_ARGUMENT", True)


def test_an_unknown_requested_output_is_named(client) -> None:
    status, message = failure(
        client, "minilm", [text_input("x")], outputs=[triton.InferRequestedOutput("logits")]
    )
    assert (status, "logits" in message) == ("StatusCode.INVALID_ARGUMENT", True)
