from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from services.inference.llm.symmetric import BLOCK, Bits, can_be_blocks, symmetric_blocks

MATRICES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.sampled_from([BLOCK, 2 * BLOCK])),
    elements=st.floats(-1000, 1000, width=32),
)


@given(MATRICES, st.sampled_from([4, 8]))
def test_no_value_is_further_off_than_its_step_allows(
    weight: NDArray[np.float32], bits: Bits
) -> None:
    blocks = symmetric_blocks(weight, bits)
    # At four bits the shorter end may be cut: the largest of the other sign by up to a step.
    steps = 0.5001 if bits == 8 else 1.0001
    allowed = np.repeat(np.abs(blocks.scales), BLOCK, axis=1) * steps
    assert (np.abs(blocks.values() - weight) <= allowed + 1e-30).all()
    assert blocks.codes.min() >= (-127 if bits == 8 else -8)


def test_the_largest_weight_is_kept() -> None:
    weight = np.linspace(-3, 8, BLOCK, dtype=np.float32)[None]
    for bits in (4, 8):
        assert symmetric_blocks(weight, bits).values()[0, -1] == pytest.approx(8)


def test_rows_that_do_not_divide_are_told_apart() -> None:
    assert can_be_blocks(np.zeros((3, 64), np.float32))
    assert not can_be_blocks(np.zeros((64, 33), np.float32))
