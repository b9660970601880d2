"""Orthogonal matrices that spread a vector's few large values over all of its places.

Rounding a vector to int8 with one step for all of it fails where one place holds most of it, as in
every decoder's residual stream. After a rotation no place is much larger than the others, and since
the weights can undo a rotation, the model computes the same function (QuaRot, SpinQuant).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
