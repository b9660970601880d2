"""A graph's signature, held against its manifest; and what a request of no rows is given."""

from __future__ import annotations

import numpy as np
import pytest

from mesh.batching_options import BatchingOptions
from mesh.errors import FailedPrecondition
from services.inference.backends.backend import GraphTensor
from services.inference.models.tensor_model import Signature
from services.inference.tensor_graph.model import make_empty
from services.inference.tensor_graph.signature import make_signature

X = GraphTensor("x", "FP32", (-1, 3, -1), ("n", "", "k"))
Y = GraphTensor("y", "BF16", (-1, 2), ("n", ""))
SCALAR = GraphTensor("s", "INT64", ())


def signature(
    *outputs: GraphTensor,
    inputs: tuple[GraphTensor, ...] = (X,),
    rankless: tuple[str, ...] = (),
    batching: BatchingOptions | None = None,
    labels: dict[str, tuple[str, ...]] | None = None,
) -> Signature:
    return make_signature(
        "p", inputs, outputs, rankless=rankless, batching=batching, labels=labels or {}
    )


def test_shapes_and_labels_are_told() -> None:
    made = signature(Y, SCALAR, labels={"y": ("no", "yes")})
    assert [(t.name, t.datatype, t.shape) for t in made.inputs] == [("x", "FP32", (-1, 3, -1))]
    assert [(t.name, t.labels) for t in made.outputs] == [("y", ("no", "yes")), ("s", ())]


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [
        (SCALAR, r"\[\]"),
        (GraphTensor("f", "FP32", (1, -1)), r"\[1,-1\]"),
        (GraphTensor("f", "FP32", (8,)), r"\[8\]"),
    ],
)
def test_batching_needs_a_free_first_axis_everywhere(tensor: GraphTensor, shape: str) -> None:
    with pytest.raises(FailedPrecondition, match=rf"batching: output '.' of shape {shape}"):
        signature(Y, tensor, batching=BatchingOptions())
    with pytest.raises(FailedPrecondition, match=rf"batching: input '.' of shape {shape}"):
        signature(Y, inputs=(X, tensor), batching=BatchingOptions())
    assert signature(Y, tensor).batching is None


def test_without_inputs_there_are_no_rows() -> None:
    with pytest.raises(FailedPrecondition, match="batching: the graph has no inputs"):
        signature(Y, inputs=(), batching=BatchingOptions())
    assert signature(Y, inputs=()).inputs == ()


def test_what_has_no_shape_may_be_an_output_only() -> None:
    assert signature(SCALAR, rankless=("s",), batching=BatchingOptions()).outputs
    with pytest.raises(FailedPrecondition, match="input 's' has no shape"):
        signature(Y, inputs=(SCALAR,), rankless=("s",))


def test_no_rows_are_given_empty_outputs_of_the_right_form() -> None:
    z = GraphTensor("z", "BYTES", (-1, -1, -1), ("n", "k", "unknown"))
    empty = make_empty([X], [Y, z], {"x": np.zeros((0, 3, 7), "f")})
    assert {name: (array.shape, array.dtype) for name, array in empty.items()} == {
        "y": ((0, 2), np.dtype("<u2")),
        "z": ((0, 7, 0), np.dtype(object)),
    }
