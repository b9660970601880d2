"""Graphs of every datatype that ONNX Runtime and the protocol share, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from mesh.errors import FailedPrecondition
from mesh.tensor import float32_to_bf16
from services.inference.backends.backend import BackendFailed, BackendSettings, InputsRefused
from services.inference.graph.session import GraphSession

KINDS = {
    "FP32": (TensorProto.FLOAT, np.array([[1.5, -0.0, np.inf]], "<f4")),
    "FP64": (TensorProto.DOUBLE, np.array([[1.5, -0.0, np.nan]], "<f8")),
    "FP16": (TensorProto.FLOAT16, np.array([[1.5, -2, 65504]], "<f2")),
    "BF16": (TensorProto.BFLOAT16, float32_to_bf16(np.array([[1.5, -2, 3e38]], "<f4"))),
    "BOOL": (TensorProto.BOOL, np.array([[True, False, True]])),
    "BYTES": (TensorProto.STRING, np.array([["", "é", "a\0b"]], object)),
    "INT8": (TensorProto.INT8, np.array([[-128, 0, 127]], "i1")),
    "INT16": (TensorProto.INT16, np.array([[-1, 0, 1]], "<i2")),
    "INT32": (TensorProto.INT32, np.array([[-1, 0, 1]], "<i4")),
    "INT64": (TensorProto.INT64, np.array([[-1, 0, 1 << 62]], "<i8")),
    "UINT8": (TensorProto.UINT8, np.array([[0, 1, 255]], "u1")),
    "UINT16": (TensorProto.UINT16, np.array([[0, 1, 65535]], "<u2")),
    "UINT32": (TensorProto.UINT32, np.array([[0, 1, 7]], "<u4")),
    "UINT64": (TensorProto.UINT64, np.array([[0, 1, 1 << 63]], "<u8")),
}


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    opset = [helper.make_opsetid("", 21)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    )
    return path


def tensor(name: str, kind: int, shape: list[int | str | None]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def add(path: Path) -> GraphSession:
    shapes = [tensor(name, TensorProto.FLOAT, ["n", 2]) for name in "abc"]
    nodes = [helper.make_node("Add", ["a", "b"], ["c"])]
    return GraphSession(save(path, nodes, shapes[:2], shapes[2:]), BackendSettings(threads=1))


@pytest.mark.parametrize("datatype", KINDS)
def test_a_datatype_passes_to_the_bit(tmp_path: Path, datatype: str) -> None:
    kind, values = KINDS[datatype]
    node = helper.make_node("Identity", ["x"], ["y"])
    ends = [tensor(name, kind, ["n", 3]) for name in "xy"]
    session = GraphSession(
        save(tmp_path / "g.onnx", [node], ends[:1], ends[1:]), BackendSettings(threads=1)
    )
    (described,) = session.inputs
    assert (described.datatype, described.shape, described.axes) == (datatype, (-1, 3), ("n", ""))
    for array in (values, values[:0]):
        (got,) = session.run(["y"], {"x": array})
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        assert got.tolist() == array.tolist() if datatype == "BYTES" else True
        assert got.tobytes() == array.tobytes() if datatype != "BYTES" else True


def test_a_sequence_is_no_tensor(tmp_path: Path) -> None:
    node = helper.make_node("SequenceConstruct", ["x"], ["s"])
    output = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    graph = save(tmp_path / "g.onnx", [node], [tensor("x", TensorProto.FLOAT, ["n"])], [output])
    with pytest.raises(FailedPrecondition, match=r"s is a seq\(tensor\(float\)\), which the proto"):
        GraphSession(graph, BackendSettings(threads=1))


def test_what_is_no_graph_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"no graph")
    with pytest.raises(FailedPrecondition, match=r"cannot load g\.onnx"):
        GraphSession(tmp_path / "g.onnx", BackendSettings(threads=1))


def test_a_wrong_rank_is_the_inputs_fault(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputsRefused, match="rank for input: a"):
        add(tmp_path / "g.onnx").run(["c"], {"a": np.zeros(2, "f"), "b": np.zeros((1, 2), "f")})
    assert capfd.readouterr() == ("", "")


def test_a_run_that_fails_says_where(tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match="Add"):
        add(tmp_path / "g.onnx").run(
            ["c"], {"a": np.zeros((3, 2), "f"), "b": np.zeros((2, 2), "f")}
        )


def test_what_cannot_be_loaded_is_named_without_its_place(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"")
    with pytest.raises(FailedPrecondition, match=r"cannot load net\.onnx: .* net\.onnx") as refused:
        GraphSession(path, BackendSettings(threads=1))
    assert str(tmp_path) not in refused.value.message
