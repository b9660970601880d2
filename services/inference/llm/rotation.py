"""Orthogonal matrices that spread a vector's few large values over all of its places.

Rounding a vector to int8 with one step for all of it fails where one place holds most of it, as in
every decoder's residual stream. After a rotation no place is much larger than the others, and since
the weights can undo a rotation, the model computes the same function (QuaRot, SpinQuant).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST_BLOCK = 64
"""Of a rotation that costs time at run time: large enough to spread, small enough to be cheap."""
_SEED = 7

Matrix = NDArray[np.float32]


def rotation(size: int) -> Matrix:
    """An orthogonal matrix for any size: random signs, then a discrete cosine transform.

    No entry is larger than sqrt(2 / size), so a vector with a single value that counts comes out
    as flat as can be.
    """
    places = np.arange(size)
    cosines = np.cos(np.pi * (places[:, None] + 0.5) * places / size) * np.sqrt(2 / size)
    cosines[:, 0] /= np.sqrt(2)
    signs = np.random.default_rng(_SEED).choice([-1.0, 1.0], size)
    matrix: Matrix = (signs[:, None] * cosines).astype(np.float32)
    return matrix


def hadamard(size: int) -> Matrix:
    """The symmetric orthogonal matrix whose entries are all alike but for their signs."""
    if size == 1:
        return np.ones((1, 1), np.float32)
    half = hadamard(size // 2)
    matrix: Matrix = (np.block([[half, half], [half, -half]]) / np.sqrt(2)).astype(np.float32)
    return matrix


def block_size(length: int) -> int:
    """The largest power of two, up to `LARGEST_BLOCK`, that divides the length."""
    return min(length & -length, LARGEST_BLOCK)


def mix_blocks(values: Matrix, size: int) -> Matrix:
    """Turns each run of `size` values of the last axis by `hadamard`; doing it twice undoes it."""
    blocks = values.reshape(*values.shape[:-1], -1, size)
    mixed: Matrix = (blocks @ hadamard(size)).reshape(values.shape)
    return mixed
