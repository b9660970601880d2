"""Models of a user's own, published with one command and asked by unmodified clients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.e2e.harness import Mesh, wait_for
from tests.e2e.test_readme import curl_lines, run
from tests.integration.onnx_graphs import save_mlp
from tests.reference.tiny_encoders import ENCODERS, TEXTS, write_encoder

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "classifiers.json").read_text())


def publish(mesh: Mesh, place: Path, client: triton_grpc.InferenceServerClient, *more: str) -> str:
    """Publishes and deploys; returns the model's name once nodes have it ready."""
    done = mesh.command("publish", str(place), "--deploy", "--json", *more)
    assert done.returncode == 0, done.stderr
    name = str(json.loads(done.stdout)["model"])
    wait_for(f"{name} is ready", lambda: is_ready(client, name))
    return name


def is_ready(client: triton_grpc.InferenceServerClient, name: str) -> bool:
    try:
        return bool(client.is_model_ready(name))
    except InferenceServerException:  # the gateway has not heard of it yet
        return False


def test_the_manual_s_graph_is_served_by_the_lines_that_it_prints(
    mesh: Mesh, tmp_path: Path
) -> None:
    (save_mlp(tmp_path, external=False) / "model.onnx").rename(tmp_path / "wine.onnx")
    published = mesh.command("publish", str(tmp_path / "wine.onnx"), "--deploy")
    assert published.returncode == 0, published.stderr
    with triton_grpc.InferenceServerClient(mesh.edge) as client:
        wait_for("wine is ready", lambda: is_ready(client, "wine"))
    described, answered = (
        json.loads(run(mesh, line, tmp_path))
        for line in curl_lines("docs/manifest.md")
        if "wine" in line
    )
    assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 13]}]
    assert answered["outputs"][0]["shape"] == [1, 5]


@pytest.mark.parametrize("external", [False, True])
def test_an_onnx_file_is_served_as_it_is(mesh: Mesh, tmp_path: Path, external: bool) -> None:
    graph = save_mlp(tmp_path, external=external) / "model.onnx"
    graph = graph.rename(tmp_path / f"My-MLP-{int(external)}.onnx")
    x = np.random.default_rng(7).standard_normal((3, 13)).astype(np.float32)
    with triton_grpc.InferenceServerClient(mesh.edge) as client:
        name = publish(mesh, graph, client)
        assert name == f"my-mlp-{int(external)}"
        tensor = triton_grpc.InferInput("x", [3, 13], "FP32")
        tensor.set_data_from_numpy(x)
        by_grpc = client.infer(name, [tensor]).as_numpy("y")
    with triton_http.InferenceServerClient(mesh.edge) as client:
        metadata = client.get_model_metadata(name)
        asked = triton_http.InferInput("x", [3, 13], "FP32")
        asked.set_data_from_numpy(x)
        by_http = client.infer(name, [asked]).as_numpy("y")
    assert [(t["name"], t["shape"]) for t in metadata["outputs"]] == [("y", [-1, 5])]
    assert by_grpc.shape == (3, 5)
    assert by_grpc.tobytes() == by_http.tobytes()


def test_a_classifier_is_served_from_its_folder(mesh: Mesh, tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "Mood", ENCODERS["bert"])
    with triton_grpc.InferenceServerClient(mesh.edge) as client:
        name = publish(mesh, folder, client)
        assert name == "mood"
        tensor = triton_grpc.InferInput("text", [len(TEXTS)], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode() for text in TEXTS], np.object_))
        result = client.infer(name, [tensor])
    assert np.abs(result.as_numpy("scores") - np.array(GOLDEN["bert"]["scores"])).max() < 2e-6
    assert set(result.as_numpy("label")) <= {label.encode() for label in ENCODERS["bert"].labels}
