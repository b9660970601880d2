"""Inputs made up for a graph: of several lengths, none of them huge."""

from __future__ import annotations

import pytest

from mesh.manifest import WarmUpRequest
from services.inference.backends.backend import GraphTensor
from services.inference.tensor_graph.sample import make_samples

Shape = tuple[int, ...]


def shapes(*inputs: Shape, rows: int | None = None) -> list[list[Shape]]:
    tensors = [GraphTensor(f"x{n}", "UINT8", shape) for n, shape in enumerate(inputs)]
    return [[each.shape for each in sample.values()] for sample in make_samples(tensors, (), rows)]


def test_free_axes_have_one_length_and_several_are_tried() -> None:
    assert shapes((-1, 3), (-1,)) == [[(n, 3), (n,)] for n in (8, 64, 256)]
    assert shapes((-1, -1), (-1, 2), rows=5) == [[(5, n), (5, 2)] for n in (8, 64, 256)]


def test_without_free_axes_there_is_one_to_try() -> None:
    assert shapes((2, 3)) == [[(2, 3)]]
    assert shapes((-1, 3), rows=5) == [[(5, 3)]]


@pytest.mark.parametrize("rows", [None, 64])
def test_lengths_that_make_a_huge_tensor_are_not_tried(rows: int | None) -> None:
    (first, *_), (second, *_) = shapes((-1, -1, -1, -1), rows=rows)
    assert first == (rows or 8, 8, 8, 8)
    assert second == (64, 64, 64, 64)


def test_what_is_declared_comes_first() -> None:
    declared = {"inputs": {"x": {"datatype": "UINT8", "shape": [1, 7]}}}
    first, *_ = make_samples(
        [GraphTensor("x", "UINT8", (-1, -1))], [WarmUpRequest.model_validate(declared)], 3
    )
    assert first["x"].shape == (3, 7)
