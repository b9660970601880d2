"""int8 by blocks or by rows: each run of 32 or 64 weights, or a whole row, has a step of its own.

The file's own blocks are carried over rather than rounded again. Q8_0 is this form already. Of a
Q4_1 block, whose weights are m + d*q with q in 0..15, the scale is d/k and the zero point -m*k/d
rounded, with the k in 8..17 for which that rounding costs least; the codes k*q are then exact. That
leaves a third of the error of rounding the weights again, and on the demo model no measurable loss
of perplexity against 0.6 %. Any other format is dequantised and rounded symmetrically.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mesh.errors import FailedPrecondition

BLOCK = 32
LARGE_BLOCK = 64
_CODES = 255
_CENTRE = 128
_LARGEST = 127
_FACTORS = range(8, 18)
_Q4_1_BYTES = 20
_Q8_0_BYTES = 34


@dataclass(frozen=True, slots=True)
class BlockInt8:
    """A matrix: codes `[rows, blocks, block]`, scales and zero points `[rows, blocks]`."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8]

    @property
    def block(self) -> int:
        """The length of a block."""
        return int(self.codes.shape[2])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        return self.codes.shape[0], self.codes.shape[1] * self.block

    def rows(self, order: NDArray[np.int64]) -> BlockInt8:
        """The same matrix with its rows in another order."""
        return BlockInt8(self.codes[order], self.scales[order], self.zeros[order])


def stack(parts: Sequence[BlockInt8]) -> BlockInt8:
    """Matrices of the same width, one under the other."""
    return BlockInt8(
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate([part.zeros for part in parts]),
    )


def quantize(weight: NDArray[np.float32]) -> BlockInt8:
    """Rounds a matrix to symmetric blocks; raises FailedPrecondition if its rows have none."""
    blocks = _blocks(weight, BLOCK)
    largest = np.maximum(blocks.max(axis=2), -blocks.min(axis=2))
    scales = (largest / _LARGEST).astype(np.float32)
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0)
    codes = np.rint(blocks * inverse[:, :, None]) + _CENTRE
    return BlockInt8(codes.astype(np.uint8), scales, np.full(scales.shape, _CENTRE, np.uint8))


def quantize_ranges(weight: NDArray[np.float32]) -> BlockInt8:
    """Rounds a matrix to larger blocks, each from its least to its largest value.

    Raises:
        FailedPrecondition: the rows do not divide into blocks.
    """
    blocks = _blocks(weight, BLOCK if weight.shape[1] % LARGE_BLOCK else LARGE_BLOCK)
    least = np.minimum(blocks.min(axis=2), 0)
    scales = ((np.maximum(blocks.max(axis=2), 0) - least) / _CODES).astype(np.float32)
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0)
    zeros = np.rint(-least * inverse)
    codes = np.clip(np.rint(blocks * inverse[:, :, None]) + zeros[:, :, None], 0, _CODES)
    return BlockInt8(codes.astype(np.uint8), scales, zeros.astype(np.uint8))


def _blocks(weight: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    rows, columns = weight.shape
    if columns % size:
        raise FailedPrecondition(
            f"rows of {columns} weights do not divide into blocks of {size}: ask for fp32 weights"
        )
    return weight.reshape(rows, -1, size)


def dequantize(matrix: BlockInt8) -> NDArray[np.float32]:
    """The values that the codes stand for."""
    offset = matrix.codes.astype(np.float32) - matrix.zeros[:, :, None]
    values: NDArray[np.float32] = (offset * matrix.scales[:, :, None]).reshape(matrix.shape)
    return values


def from_q8_0(data: NDArray[np.uint8]) -> BlockInt8:
    """GGUF's Q8_0 rows: per block a half-precision scale and 32 signed codes."""
    blocks = data.reshape(data.shape[0], -1, _Q8_0_BYTES)
    scales = _halves(blocks[:, :, :2])
    codes = blocks[:, :, 2:] ^ np.uint8(_CENTRE)  # two's complement to offset binary
    return BlockInt8(codes, scales, np.full(scales.shape, _CENTRE, np.uint8))


def from_q4_1(data: NDArray[np.uint8]) -> BlockInt8:
    """GGUF's Q4_1 rows: per block d and m in half precision, and 32 codes of four bits."""
    blocks = data.reshape(data.shape[0], -1, _Q4_1_BYTES)
    step, least = _halves(blocks[:, :, :2]), _halves(blocks[:, :, 2:4])
    packed = blocks[:, :, 4:]
    codes = np.concatenate([packed & 15, packed >> 4], axis=2)
    factor, zeros, is_exact = _fit(step, least)
    matrix = BlockInt8(codes * factor[:, :, None], (step / factor).astype(np.float32), zeros)
    if not is_exact.all():
        _round_again(matrix, least[:, :, None] + step[:, :, None] * codes, ~is_exact)
    return matrix


def _fit(
    step: NDArray[np.float32], least: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """The best factor and zero point of each block, and whether there is one."""
    # A block without a step has no factor: a zero point of -1 is none.
    ratio = np.divide(-least, step, out=np.full_like(step, -1), where=step > 0)
    best = np.full(step.shape, np.inf, np.float32)
    factor = np.ones(step.shape, np.uint8)
    zeros = np.zeros(step.shape, np.uint8)
    for candidate in _FACTORS:
        nearest = np.rint(ratio * candidate)
        usable = (nearest >= 0) & (nearest <= np.iinfo(np.uint8).max)
        error = np.where(usable, np.abs(ratio * candidate - nearest), np.inf)
        better = error / candidate < best
        best[better] = error[better] / candidate
        factor[better] = candidate
        zeros[better] = nearest[better].astype(np.uint8)
    return factor, zeros, np.isfinite(best)


def _round_again(matrix: BlockInt8, values: NDArray[np.float32], which: NDArray[np.bool_]) -> None:
    rounded = quantize(values[which])
    matrix.codes[which] = rounded.codes[:, 0]
    matrix.scales[which] = rounded.scales[:, 0]
    matrix.zeros[which] = rounded.zeros[:, 0]


def _halves(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(data).view(np.float16)[:, :, 0].astype(np.float32)


@dataclass(frozen=True, slots=True)
class RowInt8:
    """A matrix: codes `[rows, columns]`, scales `[rows]`."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]


def quantize_rows(weight: NDArray[np.float32]) -> RowInt8:
    """Rounds each row of a matrix by a step of its own."""
    scales = (np.abs(weight).max(axis=1) / _LARGEST).astype(np.float32)
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0)
    return RowInt8(np.rint(weight * inverse[:, None]).astype(np.int8), scales)
