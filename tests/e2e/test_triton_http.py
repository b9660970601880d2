"""Unmodified tritonclient.http against the edge: JSON tensors and binary tensors."""

import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.e2e.harness import Mesh


@pytest.fixture
def client(mesh: Mesh) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(mesh.edge) as opened:
        yield opened


def make_input(name: str, array: np.ndarray, datatype: str, *, binary: bool) -> triton.InferInput:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def texts(*values: str) -> np.ndarray:
    return np.array([value.encode() for value in values], dtype=np.object_)


def test_the_server_is_live_ready_and_describes_itself(client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "ringmesh"


@pytest.mark.parametrize("model", ["smollm2", "minilm", "identity", "minilm@1"])
def test_models_are_ready(client, model: str) -> None:
    assert client.is_model_ready(model)


def test_model_metadata_has_shapes_as_numbers(client) -> None:
    metadata = client.get_model_metadata("minilm")
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert metadata["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 384]}]


def test_statistics_add_up(client) -> None:
    client.infer("minilm", [make_input("text", texts("a", "b"), "BYTES", binary=True)])
    (counts,) = client.get_inference_statistics("minilm")["model_stats"]
    stats = counts["inference_stats"]
    parts = ("compute_input", "queue", "compute_infer", "compute_output")
    assert sum(stats[part]["ns"] for part in parts) == stats["success"]["ns"]
    rows = (b["batch_size"] * b["compute_infer"]["count"] for b in counts["batch_stats"])
    assert sum(rows) >= counts["inference_count"] >= 2


def test_generate_answers_whole_and_in_events(mesh: Mesh) -> None:
    base = f"http://{mesh.edge}/v2/models/smollm2"
    body = {"text_input": "The capital of France is", "max_tokens": 8, "temperature": 0}
    whole = httpx.post(f"{base}/generate", json=body, timeout=60)
    assert whole.status_code == 200
    assert "Paris" in whole.json()["text_output"]
    assert whole.headers["x-ringmesh-trace-id"]
    streamed = httpx.post(f"{base}/generate_stream", json=body, timeout=60)
    frames = streamed.text.removesuffix("\n\n").split("\n\n")
    events = [json.loads(each.removeprefix("data: ")) for each in frames]
    assert len(events) > 3
    assert "".join(each["text_output"] for each in events) == whole.json()["text_output"]
    assert events[-1]["completion_tokens"] == 8


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_minilm_embeds_text_in_both_forms(client, binary_in: bool, binary_out: bool) -> None:
    result = client.infer(
        "minilm",
        [make_input("text", texts("hello", "world"), "BYTES", binary=binary_in)],
        outputs=[triton.InferRequestedOutput("embedding", binary_data=binary_out)],
        request_id="r-1",
    )
    assert result.as_numpy("embedding").shape == (2, 384)
    assert result.get_response()["id"] == "r-1"


def test_json_and_binary_give_the_same_numbers(client) -> None:
    array = texts("the same text")
    forms = []
    for binary in (True, False):
        output = triton.InferRequestedOutput("embedding", binary_data=binary)
        tensor = make_input("text", array, "BYTES", binary=binary)
        forms.append(client.infer("minilm", [tensor], outputs=[output]).as_numpy("embedding"))
    assert np.array_equal(*forms)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("BOOL", np.array([[True], [False]])),
        ("INT8", np.array([-128, 127], dtype=np.int8)),
        ("UINT64", np.array([2**64 - 1], dtype=np.uint64)),
        ("INT64", np.array([-(2**63)], dtype=np.int64)),
        ("FP32", np.array([[0.1, -3.5e10]], dtype=np.float32)),
        ("FP64", np.array([1e-300], dtype=np.float64)),
        ("BYTES", texts("", "grüße")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_identity_returns_any_tensor_as_it_was(client, datatype, array, binary: bool) -> None:
    output = triton.InferRequestedOutput("x", binary_data=binary)
    tensor = make_input("x", array, datatype, binary=binary)
    result = client.infer("identity", [tensor], outputs=[output])
    got = result.as_numpy("x")
    if datatype == "BYTES" and not binary:
        got = np.array([each.encode() if isinstance(each, str) else each for each in got])
    assert got.tolist() == array.tolist()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_bodies_go_both_ways(client, algorithm: str) -> None:
    result = client.infer(
        "minilm",
        [make_input("text", texts("hello"), "BYTES", binary=True)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert result.as_numpy("embedding").shape == (1, 384)


def test_an_error_has_its_status_and_names_the_model(client) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("nope", [make_input("text", texts("x"), "BYTES", binary=True)])
    assert caught.value.status() == "404"
    assert "nope" in caught.value.message()
