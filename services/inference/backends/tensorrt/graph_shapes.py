"""The shapes that a graph's engine is built for, from the free axes of its inputs: pure.

An encoder takes rows of tokens, up to what it was trained on. Of any other graph only the number of
rows may be free: of another axis nobody here knows how long it gets, and an engine must.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from services.inference.backends.backend import BackendUnavailable, Obstacle
from services.inference.backends.tensorrt.library import BACKEND
from services.inference.backends.tensorrt.shapes import Profile, Shape, ShapeRange
from services.inference.encoders.bert_source import BertSource

MOST_ROWS = 64
"""More are run in pieces."""
_USUAL_ROWS = 8
_USUAL_TOKENS = 128


def graph_profile(model: str, graph: Path, encoder: BertSource | None) -> Profile:
    """The shapes of a graph; raises `BackendUnavailable` where they cannot be known."""
    shapes = input_shapes(graph)
    if encoder is not None:
        return tuple(
            _range(name, shape, encoder.config.max_tokens) for name, shape in shapes.items()
        )
    for name, shape in shapes.items():
        if shape[:1] != (-1,) or -1 in shape[1:]:
            raise BackendUnavailable(
                BACKEND,
                Obstacle.UNSUPPORTED_MODEL,
                f"{model}: input {name} has the shape {list(shape)}; "
                "an engine takes graphs whose first axis alone is free",
            )
    return tuple(_range(name, shape, 1) for name, shape in shapes.items())


def input_shapes(graph: Path) -> dict[str, Shape]:
    """The inputs of an ONNX file, -1 for a free axis."""
    model = onnx.load(str(graph), load_external_data=False)
    constants = {each.name for each in model.graph.initializer}
    return {
        each.name: tuple(
            axis.dim_value if axis.HasField("dim_value") else -1
            for axis in each.type.tensor_type.shape.dim
        )
        for each in model.graph.input
        if each.name not in constants
    }


def _range(name: str, shape: Shape, longest: int) -> ShapeRange:
    def filled(rows: int, tokens: int) -> Shape:
        free = (rows, *(tokens for _ in shape[1:]))
        return tuple(n if n >= 0 else free[axis] for axis, n in enumerate(shape))

    usual = filled(min(_USUAL_ROWS, MOST_ROWS), min(_USUAL_TOKENS, longest))
    return ShapeRange(name, filled(1, 1), usual, filled(MOST_ROWS, longest))
