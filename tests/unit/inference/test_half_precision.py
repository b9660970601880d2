from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from services.inference.backends.backend import BackendSettings
from services.inference.graph.half import write_half
from services.inference.graph.session import GraphSession
from services.inference.graph.writer import GraphWriter


def test_a_graph_in_half_precision_takes_and_gives_what_it_did(tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    whole.mkdir()
    half.mkdir()
    random = np.random.default_rng(0)
    writer = GraphWriter("two layers", whole)
    ids = writer.input("ids", TensorProto.INT64, ["rows"])
    x = writer.input("x", TensorProto.FLOAT, ["rows", 64])
    table = writer.constant("table", random.standard_normal((9, 64)).astype(np.float32))
    both = writer.node("Add", [x, writer.node("Gather", [table, ids])])
    weight = writer.constant("weight", random.standard_normal((64, 32)).astype(np.float32))
    count = writer.node("Cast", [ids], to=TensorProto.FLOAT)
    column = writer.node("Unsqueeze", [count, writer.constant("axis", np.array([1]))])
    writer.node("Div", [writer.node("MatMul", [both, weight]), column], ["y"])
    writer.output("y", TensorProto.FLOAT, ["rows", 32])
    graph = writer.save({"": 21})
    halved = write_half(graph, half)

    inputs = {
        "ids": np.array([1, 5, 8]),
        "x": random.standard_normal((3, 64)).astype(np.float32),
    }
    answers = [
        GraphSession(path, BackendSettings(threads=1)).run(["y"], inputs)[0]
        for path in (graph, halved)
    ]
    assert answers[1].dtype == np.float32
    np.testing.assert_allclose(answers[1], answers[0], atol=0.05)
    assert not np.array_equal(answers[1], answers[0])
    types = {each.data_type for each in onnx.load(str(halved)).graph.initializer}
    assert TensorProto.FLOAT not in types
    assert sum(file.stat().st_size for file in half.iterdir()) < 20_000
