"""int8 blocks against the formats that they come from."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mesh.errors import FailedPrecondition
from services.inference.llm.quantization import (
    BLOCK,
    LARGE_BLOCK,
    dequantize,
    from_q4_1,
    from_q8_0,
    quantize,
    quantize_ranges,
    stack,
)

weights = arrays(np.int16, (4, 2 * BLOCK), elements=st.integers(-2048, 2048)).map(
    lambda steps: (steps / 256).astype(np.float32)
)


@given(weights)
def test_rounding_errs_by_half_a_step_at_most(weight: np.ndarray) -> None:
    matrix = quantize(weight)
    error = np.abs(dequantize(matrix) - weight).reshape(4, 2, BLOCK).max(axis=2)
    assert (error <= matrix.scales * 0.5 + 1e-6).all()
    assert matrix.shape == weight.shape


@given(weights, st.booleans())
def test_a_range_errs_by_a_step_at_most_and_zero_not_at_all(
    weight: np.ndarray, is_short: bool
) -> None:
    weight = weight[:, :BLOCK] if is_short else weight
    matrix = quantize_ranges(weight)
    assert (matrix.block, matrix.shape) == (BLOCK if is_short else LARGE_BLOCK, weight.shape)
    error = np.abs(dequantize(matrix) - weight).reshape(matrix.codes.shape).max(axis=2)
    assert (error <= matrix.scales + 1e-6).all()
    assert (dequantize(matrix)[weight == 0] == 0).all()


def test_rows_that_have_no_blocks_are_refused() -> None:
    with pytest.raises(FailedPrecondition, match="rows of 80 weights do not divide into blocks"):
        quantize_ranges(np.zeros((2, 80), np.float32))


@given(weights)
def test_q8_0_comes_through_exactly(weight: np.ndarray) -> None:
    data = gguf.quantize(weight, gguf.GGMLQuantizationType.Q8_0)
    expected = gguf.dequantize(data, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(dequantize(from_q8_0(data)), expected)


@given(weights)
def test_q4_1_comes_through_closer_than_its_own_step(weight: np.ndarray) -> None:
    data = gguf.quantize(weight, gguf.GGMLQuantizationType.Q4_1)
    expected = gguf.dequantize(data, gguf.GGMLQuantizationType.Q4_1)
    error = np.abs(dequantize(from_q4_1(data)) - expected).reshape(4, 2, BLOCK).max(axis=2)
    step = (expected.max(axis=1) - expected.min(axis=1)).max()
    assert error.max() <= step / 15 / 8 + np.abs(expected).max() / 127


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_ordinary_q4_1_weights_lose_less_than_by_rounding_again(seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((64, 256)).astype(np.float32)
    data = gguf.quantize(weight, gguf.GGMLQuantizationType.Q4_1)
    expected = gguf.dequantize(data, gguf.GGMLQuantizationType.Q4_1)

    def error(values: np.ndarray) -> float:
        return float(np.square(values - expected).mean())

    assert error(dequantize(from_q4_1(data))) < 0.2 * error(dequantize(quantize(expected)))


def test_matrices_stack_and_reorder_by_rows() -> None:
    first, second = (quantize(np.full((2, BLOCK), value, np.float32)) for value in (1.0, 2.0))
    both = stack([first, second]).rows(np.array([3, 0, 1, 2]))
    assert dequantize(both)[:, 0].tolist() == [2.0, 1.0, 1.0, 2.0]
