"""Whether a failed run is its request's fault."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from services.inference.backends.backend import BackendFailed, GraphTensor, InputsRefused
from services.inference.tensor_graph.fault import explain, find_contradiction

INPUTS = (
    GraphTensor("a", "FP32", (-1, -1, 3), ("n", "k", "")),
    GraphTensor("b", "FP32", (-1, -1, 4), ("k", "", "")),
)


def arrays(a: tuple[int, ...], b: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {"a": np.zeros(a), "b": np.zeros(b)}


@given(n=st.integers(0, 3), k=st.integers(0, 3), other=st.integers(0, 3), free=st.integers(0, 3))
def test_axes_of_one_name_must_agree(n: int, k: int, other: int, free: int) -> None:
    found = find_contradiction(INPUTS, arrays((n, k, 3), (other, free, 4)))
    assert (found is None) == (k == other)
    if found is not None:
        assert found.field == "inputs.b"
        assert f"has length {other}, but in 'a' it has {k}" in found.message


def test_the_engines_word_on_the_inputs_counts() -> None:
    told = explain(InputsRefused("index 9"), INPUTS, arrays((1, 2, 3), (2, 1, 4)))
    assert isinstance(told, InvalidArgument)
    assert told.field == "inputs"
    alone = explain(InputsRefused("index 9"), INPUTS[:1], arrays((1, 2, 3), (2, 1, 4)))
    assert isinstance(alone, InvalidArgument)
    assert alone.field == "inputs.a"


def test_any_other_failure_stays_one() -> None:
    error = BackendFailed("broken")
    assert explain(error, INPUTS, arrays((1, 2, 3), (2, 1, 4))) is error
    without_names = (GraphTensor("a", "FP32", (-1, -1)), GraphTensor("b", "FP32", (-1,)))
    assert explain(error, without_names, {"a": np.zeros((1, 2)), "b": np.zeros(5)}) is error


def test_shapes_at_fault_come_before_the_engines_failure() -> None:
    assert isinstance(
        explain(BackendFailed("x"), INPUTS, arrays((1, 2, 3), (1, 1, 4))), InvalidArgument
    )
