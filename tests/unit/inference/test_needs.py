"""What a version is counted with before it is loaded, and what it takes when it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from mesh.deployment import ArtefactFile, VersionSpec
from mesh.errors import FailedPrecondition
from mesh.manifest import Manifest
from mesh.memory_estimate import copies
from services.inference.backends.backend import BackendSettings, Device
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.backends.openvino_backend import NAME, OpenVinoGraph
from services.inference.backends.tensorrt.graph_runner import TensorRtGraph
from services.inference.backends.tensorrt.library import BACKEND
from services.inference.backends.torch.bert import TorchEncoder
from services.inference.graph.session import GraphSession
from services.inference.models.needs import count_bytes

SETTINGS = BackendSettings(threads=1)
CPU = OnnxRuntimeBackend(SETTINGS)


class NotSharing:
    """A backend that is there."""

    name = "openvino"

    def check(self):
        return Device.CPU

    def open_slots(self, decoder, slots):
        raise NotImplementedError

    def open_graph(self, graph):
        raise NotImplementedError


def count(folder: Path, *, task: str, format_: str, backends=(CPU,), **manifest) -> int:
    files = tuple(
        ArtefactFile(path=each.name, digest="0" * 64, size_bytes=each.stat().st_size)
        for each in folder.iterdir()
    )
    described = Manifest(name="m", task=task, format=format_, **manifest)
    spec = VersionSpec(version=1, digest="0" * 64, manifest=described, files=files)
    return count_bytes(folder, spec, folder, backends)


def write_product(folder: Path, external: str | None) -> Path:
    """A matrix of 40 kB, in the graph's file or in one of that name; empty for one of its own."""
    matrix = np.ones((100, 100), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "onnx__MatMul_1"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 100])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 100])],
        [numpy_helper.from_array(matrix, "onnx__MatMul_1")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(
        model,
        folder / "model.onnx",
        save_as_external_data=external is not None,
        all_tensors_to_one_file=bool(external),
        location=external or None,
        size_threshold=0,
    )
    return folder / "model.onnx"


@pytest.mark.parametrize("external", [None, "model.onnx_data", "weights", ""])
def test_a_graph_is_counted_with_its_weights_wherever_they_lie(
    tmp_path: Path, external: str | None
) -> None:
    graph = write_product(tmp_path, external)
    counted = count(tmp_path, task="tensor", format_="onnx")
    session = GraphSession(graph, SETTINGS)
    assert 40_000 < counted == session.memory_bytes < 41_000
    session.close()


def test_weights_count_for_each_instance_where_the_backend_asked_first_cannot_share_them(
    tmp_path: Path,
) -> None:
    write_product(tmp_path, None)

    def counted(**manifest) -> int:
        backends = CPU, NotSharing()
        return count(tmp_path, task="tensor", format_="onnx", backends=backends, **manifest)

    assert counted(instances=3) == counted(instances=3, backend="onnxruntime") == counted()
    assert counted(instances=3, backend="openvino") == 3 * counted()


def test_which_backends_share_weights_is_what_their_runners_say() -> None:
    runners = {
        CPU.name: GraphSession,
        "torch": TorchEncoder,
        NAME: OpenVinoGraph,
        BACKEND: TensorRtGraph,
    }
    for name, runner in runners.items():
        assert copies(name, 3) == (1 if runner.is_concurrent else 3)


@pytest.mark.parametrize("element", [np.float16, np.float32])
def test_an_encoder_in_half_precision_is_counted_as_the_float32_that_it_becomes(
    tmp_path: Path, element: type[np.floating]
) -> None:
    tensors = {"a": np.ones((100, 10), element), "b": np.ones(24, element)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"for somebody else")
    assert count(tmp_path, task="text-embedding", format_="transformers") == 4 * 1024


def test_an_encoder_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(FailedPrecondition, match=r"model\.safetensors cannot be read"):
        count(tmp_path, task="text-embedding", format_="transformers")
