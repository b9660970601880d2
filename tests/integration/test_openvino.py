"""The OpenVINO backend on the real library: graphs of tensors, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from mesh.errors import FailedPrecondition
from mesh.manifest import Manifest
from mesh.tensor import Tensor, encode_raw
from services.inference.backends.backend import (
    BackendFailed,
    BackendUnavailable,
    Device,
    Graph,
    InputsRefused,
    Obstacle,
)
from services.inference.batching.terms import ANY_TIME
from services.inference.tensor_graph.company import Company
from services.inference.tensor_graph.onnx_model import open_onnx_model
from tests.integration import onnx_graphs as graphs
from tests.integration.node_rig import spec_of
from tests.integration.openvino_rig import BACKEND, CAPABILITIES, OTHER
from tests.integration.tensor_place import make_place

Arrays = dict[str, np.ndarray[Any, Any]]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def graph_of(folder: Path, compute: str = "auto") -> Graph:
    path = folder / "model.onnx"
    return Graph("graph", "0" * 64, lambda: path, folder, compute=compute)


def one_node(
    folder: Path, op: str, shapes: dict[str, Sequence[Any]], kind: int = FLOAT, **attributes: Any
) -> Path:
    """A graph of one node: its inputs, and `y` last."""
    *ins, out = (graphs.tensor(name, shape, kind) for name, shape in shapes.items())
    *names, last = shapes
    return graphs.save(folder, [graphs.node(op, names, [last], **attributes)], ins, [out])


async def open_graph(folder: Path, **options: Any) -> Any:
    document = {"name": "graph", "task": "tensor", "format": "onnx", "backend": "openvino"}
    place = replace(make_place(folder / "cache"), backends=(OTHER, BACKEND))
    model = await open_onnx_model(
        folder, spec_of(Manifest.model_validate({**document, **options})), place
    )
    await model.warm_up()
    return model


async def infer(model: Any, inputs: Arrays) -> Arrays:
    kinds = {spec.name: spec.datatype for spec in model.signature.inputs}
    tensors = tuple(
        Tensor(name, kinds[name], array.shape, encode_raw(array, kinds[name]))
        for name, array in inputs.items()
    )
    outputs = (await model.infer(tensors, ANY_TIME)).outputs
    return {each.name: each.array() for each in outputs}


def random(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype("<f4")


GRAPHS: list[tuple[Callable[[Path], Path], Arrays]] = [
    (graphs.save_mlp, {"x": random(9, 13)}),
    (graphs.save_mlp, {"x": random(0, 13)}),
    (graphs.save_conv, {"image": random(3, 3, 9, 11)}),
    (graphs.save_lookup, {"id": np.array([2, 0, 1, 2])}),
    (
        graphs.save_masked_mean,
        {"vectors": random(2, 5, 4), "mask": np.array([[1] * 5, [1, 1, 0, 0, 0]])},
    ),
    (graphs.save_sum, {"a": random(2, 3), "b": random(2, 3, seed=1)}),
]


@pytest.mark.parametrize(("save", "inputs"), GRAPHS)
def test_graphs_give_what_onnxruntime_gives(
    tmp_path: Path, save: Callable[[Path], Path], inputs: Arrays
) -> None:
    graph = graph_of(save(tmp_path))
    runner, other = BACKEND.open_graph(graph), OTHER.open_graph(graph)
    assert (runner.inputs, runner.outputs) == (other.inputs, other.outputs)
    assert runner.memory_bytes == other.memory_bytes
    names = [output.name for output in runner.outputs]
    found, expected = runner.run(names, inputs), other.run(names, inputs)
    kept = [array.copy() for array in found]
    runner.run(names, {name: np.zeros_like(array) for name, array in inputs.items()})
    for one, still, wanted in zip(found, kept, expected, strict=True):
        assert (one.shape, one.dtype) == (wanted.shape, wanted.dtype)
        assert np.allclose(one, wanted, atol=1e-6)
        assert one.tobytes() == still.tobytes()  # the next run leaves it alone
    runner.close()
    other.close()


@pytest.mark.parametrize("save", [graphs.save_mlp, graphs.save_conv])
async def test_rows_of_a_graph_are_the_same_in_company(
    tmp_path: Path, save: Callable[[Path], Path]
) -> None:
    name, shape = ("x", (13,)) if save is graphs.save_mlp else ("image", (3, 9, 11))
    asked = [{name: random(1 + n % 3, *shape, seed=n)} for n in range(24)]
    batching = {"max_batch_size": 8, "max_queue_delay_ms": 1000.0}
    model = await open_graph(save(tmp_path), instances=2, batching=batching)
    assert (model.backend, model.signature.instances) == ("openvino", 2)
    together = await asyncio.gather(*(infer(model, one) for one in asked))
    await model.close()
    model = await open_graph(tmp_path, batching={"max_batch_size": 8, "max_queue_delay_ms": 0.0})
    for one, other in zip(asked, together, strict=True):
        alone = await infer(model, {name: one[name][:1]})
        for output, array in alone.items():
            assert array[0].tobytes() == other[output][0].tobytes()
    await model.close()


async def test_a_graph_that_mixes_rows_is_run_one_by_one(tmp_path: Path) -> None:
    model = await open_graph(graphs.save_whole_batch_scale(tmp_path), batching={})
    assert (model.backend, model._company) == ("openvino", Company.NONE)
    assert "one by one" in model.remark
    await model.close()


KINDS = {
    "FLOAT": [1 / 3, -2.5],
    "FLOAT16": np.array([1 / 3, -2.5], np.float16),
    "BFLOAT16": np.array([0x3F80, 0xC049], np.uint16),
    "BOOL": [True, False],
    "INT8": [127, -128],
    "INT16": [32767, -32768],
    "INT32": [2**31 - 1, -(2**31)],
    "UINT8": [255, 0],
    "UINT16": [65535, 0],
}


@pytest.mark.parametrize("kind", KINDS)
def test_elements_pass_unchanged(tmp_path: Path, kind: str) -> None:
    element = getattr(TensorProto, kind)
    folder = one_node(tmp_path, "Transpose", {"x": ["n", "m"], "y": ["m", "n"]}, element)
    runner = BACKEND.open_graph(graph_of(folder))
    dtype = {"FLOAT": "f4", "FLOAT16": "f2", "BFLOAT16": "u2"}.get(kind, kind.lower())
    x = np.array([KINDS[kind]], dtype)
    x.flags.writeable = False  # as a request's bytes are
    for array in (x, np.asfortranarray(np.repeat(x, 3, axis=0))):
        (y,) = runner.run(["y"], {"x": array})
        assert (y.dtype, y.tolist()) == (x.dtype, array.T.tolist())
    runner.close()


def scalar(folder: Path) -> Path:
    nodes = [graphs.node("Add", ["x", "x"], ["y"])]
    return graphs.save(folder, nodes, [graphs.tensor("x", [])], [graphs.tensor("y", [])])


def test_a_number_without_axes_stays_one(tmp_path: Path) -> None:
    runner = BACKEND.open_graph(graph_of(scalar(tmp_path)))
    (y,) = runner.run(["y"], {"x": np.array(1.5, "f4")})
    assert (y.shape, float(y)) == ((), 3.0)
    runner.close()


def save_gather_nd(folder: Path) -> Path:
    nodes = [graphs.node("GatherND", ["table", "at"], ["y"])]
    ends = [graphs.tensor("at", ["n", 1], INT64)], [graphs.tensor("y", ["n", 4])]
    return graphs.save(folder, nodes, *ends, [graphs.weights("table", 3, 4)])


def save_range(folder: Path) -> Path:
    nodes = [
        graphs.node("Range", ["zero", "ten", "step"], ["r"]),
        graphs.node("Cast", ["r"], ["y"], to=FLOAT),
    ]
    constants = [
        numpy_helper.from_array(np.array(value), name) for name, value in (("zero", 0), ("ten", 10))
    ]
    ends = [graphs.tensor("step", [], INT64)], [graphs.tensor("y", ["n"])]
    return graphs.save(folder, nodes, *ends, constants)


def save_inner_double(folder: Path) -> Path:
    nodes = [
        graphs.node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE),
        graphs.node("Exp", ["wide"], ["e"]),
        graphs.node("Cast", ["e"], ["y"], to=FLOAT),
    ]
    return graphs.save(folder, nodes, [graphs.tensor("x", ["n"])], [graphs.tensor("y", ["n"])])


def save_unknown(folder: Path) -> Path:
    node = graphs.node("Foo", ["x"], ["y"], domain="nobody")
    return graphs.save(folder, [node], [graphs.tensor("x", ["n"])], [graphs.tensor("y", ["n"])])


def of_kind(kind: int) -> Callable[[Path], Path]:
    return lambda folder: one_node(folder, "Identity", {"x": ["n"], "y": ["n"]}, kind)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (save_gather_nd, r"GatherND \(y\) is not known to keep to its own memory"),
        (save_range, r"Range \(r\) takes a place from an input"),
        (save_inner_double, "f64, which it would cut to 32 bits"),
        (of_kind(TensorProto.DOUBLE), "'x' is FP64, which it would cut"),
        (of_kind(TensorProto.UINT64), "'x' is UINT64, which it would cut"),
        (of_kind(INT64), "'y' is INT64, which it would cut"),
        (of_kind(TensorProto.STRING), "'x' is of texts"),
        (save_unknown, "Foo"),
    ],
)
def test_what_it_would_not_compute_safely_or_rightly_is_refused(
    tmp_path: Path, save: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(BackendUnavailable, match=message) as refused:
        BACKEND.open_graph(graph_of(save(tmp_path)))
    assert refused.value.obstacle is Obstacle.UNSUPPORTED_MODEL


async def test_such_a_graph_is_served_by_another_backend_and_says_so(tmp_path: Path) -> None:
    model = await open_graph(save_gather_nd(tmp_path))
    assert model.backend == "onnxruntime"
    assert "runs on onnxruntime instead of openvino (openvino: unsupported_model: " in model.remark
    assert (await infer(model, {"at": np.array([[1], [0]])}))["y"].shape == (2, 4)
    await model.close()


async def test_a_file_that_is_not_onnx_is_wrong_for_every_backend(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\xff\xff")
    with pytest.raises(FailedPrecondition, match="is not ONNX"):
        BACKEND.open_graph(graph_of(tmp_path))


def test_wrong_inputs_are_told_from_failed_runs(tmp_path: Path) -> None:
    lookup = BACKEND.open_graph(graph_of(graphs.save_lookup(tmp_path / "lookup")))
    with pytest.raises(InputsRefused, match="'id' has a value beyond the 32 bits"):
        lookup.run(["row"], {"id": np.array([2**40])})
    with pytest.raises(InputsRefused, match="incompatible"):
        lookup.run(["row"], {"id": np.array([[1]])})
    assert lookup.run(["row"], {"id": np.array([9, -9])})[0].tolist() == [[0] * 4] * 2
    lookup.close()
    free = graphs.save_sum(tmp_path / "sum", shapes=(["n", "k"], ["m", "l"]))
    total = BACKEND.open_graph(graph_of(free))
    with pytest.raises(BackendFailed, match="mismatch") as failed:
        total.run(["sum"], {"a": random(2, 3), "b": random(2, 4)})
    assert not isinstance(failed.value, InputsRefused)
    assert total.run(["sum"], {"a": random(2, 3), "b": random(2, 3)})[0].shape == (2, 3)
    total.close()


@pytest.mark.parametrize(("compute", "needed"), [("bf16", "BF16"), ("fp16", "FP16")])
def test_a_precision_is_computed_in_or_refused_by_name(
    tmp_path: Path, compute: str, needed: str
) -> None:
    graph = graph_of(graphs.save_mlp(tmp_path), compute)
    if needed in CAPABILITIES:
        runner = BACKEND.open_graph(graph)
        (y,) = runner.run(["y"], {"x": random(4, 13)})
        runner.close()
        full = BACKEND.open_graph(graph_of(tmp_path))
        (expected,) = full.run(["y"], {"x": random(4, 13)})
        full.close()
        assert y.dtype == np.float32
        assert 0 < np.abs(y - expected).max() < 0.1
    else:
        with pytest.raises(BackendUnavailable, match=f"no {compute}") as refused:
            BACKEND.open_graph(graph)
        assert refused.value.obstacle is Obstacle.UNSUPPORTED_PRECISION


def test_language_models_are_refused_by_name() -> None:
    assert BACKEND.check() is Device.CPU
    with pytest.raises(BackendUnavailable, match="keeps no slots") as refused:
        BACKEND.open_slots(None, 4)  # type: ignore[arg-type]  # it does not look at it
    assert refused.value.obstacle is Obstacle.UNSUPPORTED_MODEL


WATCHED = """
import sys
from pathlib import Path

def watch(event, arguments):
    if event.startswith(("socket.", "subprocess.", "urllib.")) and event != "socket.__new__":
        print(event, arguments)
    if event == "open" and any(letter in str(arguments[1]) for letter in "wax+"):
        print(event, arguments)

sys.addaudithook(watch)
from services.inference.backends.backend import BackendSettings, Graph
from services.inference.backends.openvino_backend import OpenVinoBackend

folder = Path(sys.argv[1])
graph = Graph("graph", "0" * 64, lambda: folder / "model.onnx", folder)
runner = OpenVinoBackend(BackendSettings(threads=1)).open_graph(graph)
print("opened", [tensor.name for tensor in runner.outputs])
runner.close()
"""


def test_nothing_is_sent_and_nothing_written(tmp_path: Path) -> None:
    folder = graphs.save_mlp(tmp_path / "graph")
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-B", "-c", WATCHED, str(folder)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["opened ['y']"]
    assert list(home.iterdir()) == []
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]
