"""Block-wise int8 and int4 without zero points: the form that TensorRT multiplies by.

Each run of 32 weights of a row shares a scale. Eight bits are rounded to -127..127. Four bits are
-8..7, and the scale takes the sign that puts the largest weight at -8, the longer end: that leaves
visibly less error than a scale that has both ends alike. Weights that were rounded before (Q4_1)
lose once more when they are rounded to four bits here; eight bits cost them next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
Bits = Literal[4, 8]


@dataclass(frozen=True, slots=True)
class SymmetricBlocks:
    """A matrix `[rows, columns]`: codes of that shape, scales `[rows, columns / BLOCK]`."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]

    def values(self) -> NDArray[np.float32]:
        """What the codes stand for."""
        blocks = self.codes.reshape(*self.scales.shape, BLOCK).astype(np.float32)
        values: NDArray[np.float32] = (blocks * self.scales[:, :, None]).reshape(self.codes.shape)
        return values


def can_be_blocks(weight: NDArray[np.float32]) -> bool:
    """Whether the rows divide into blocks."""
    return bool(weight.shape[1] % BLOCK == 0)


def symmetric_blocks(weight: NDArray[np.float32], bits: Bits) -> SymmetricBlocks:
    """Rounds a matrix whose rows divide into blocks."""
    blocks = weight.reshape(weight.shape[0], -1, BLOCK)
    scales, least, most = _scales(blocks, bits)
    # Below this a scale has no inverse in float32, and its block is nothing to anybody.
    is_normal = np.abs(scales) >= np.finfo(np.float32).tiny
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=is_normal)
    codes = np.clip(np.rint(blocks * inverse[:, :, None]), least, most).astype(np.int8)
    return SymmetricBlocks(codes.reshape(weight.shape), scales)


def _scales(blocks: NDArray[np.float32], bits: Bits) -> tuple[NDArray[np.float32], int, int]:
    largest = np.argmax(np.abs(blocks), axis=2)
    extreme = np.take_along_axis(blocks, largest[:, :, None], axis=2)[:, :, 0]
    if bits == 8:  # noqa: PLR2004 - what it says
        return (np.abs(extreme) / 127).astype(np.float32), -127, 127
    return (extreme / -8).astype(np.float32), -8, 7
