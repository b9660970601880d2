"""The CPU's decoder in int8, in coarse steps where they are cheap: rows for the widest matrices.

One step per output and one per token let a product run on the processor's own integer products
three times as fast as one on small blocks. But a few places of the residual stream are a hundred
times as large as the others, and steps for a whole row would be made for those alone. So the stream
is rotated (`rotation`) from the embedding to the head, and the weights undo it; the norms' own
scales go into the matrices behind them, for a bare root mean square norm does not see a rotation.

Rows are for the matrices behind a norm: its output has a root mean square of one, so its step is a
constant, and nothing depends on the neighbours in a batch. They are most of a model's weights:
the feed-forward's way in, and the head. Queries, keys and values feel coarse steps most, and what
goes back to the stream would need a step for each token: these have blocks of 64, each with a step
and a zero point of its own.
"""

from __future__ import annotations

import numpy as np

from services.inference.graph.writer import GraphWriter
from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.block_graph import BlockLowering
from services.inference.llm.ort_graph import EMBEDDING, MS
from services.inference.llm.quantization import quantize, quantize_ranges, quantize_rows
from services.inference.llm.rotation import Matrix, rotation
from services.inference.llm.weights import WeightSource

_LARGEST_CODE = 127
_NORM_REACH = 3.5
"""Beyond this a norm's output is cut: finer steps for all are worth one value in two thousand."""


class RotatedLowering(BlockLowering):
    """Matrices of int8 rows and of larger blocks, in a rotated model."""

    def __init__(
        self, writer: GraphWriter, weights: WeightSource, config: LlamaConfig, context_tokens: int
    ) -> None:
        super().__init__(writer, weights, config, context_tokens)
        self._rotation = rotation(config.hidden)
        self._norms: dict[str, str] = {}
        self._rounded: dict[str, str] = {}
        step = np.array(_NORM_REACH / _LARGEST_CODE, np.float32)
        self._step = writer.constant("norm_step", step)
        self._zero = writer.constant("zero_point", np.array(_LARGEST_CODE + 1, np.uint8))

    def embed(self, ids: str) -> str:
        """Looks tokens up in a rotated table, which the head cannot share."""
        table = self._weights.weight(EMBEDDING) @ self._rotation
        return self._embed(ids, quantize(table))

    def add_norm(self, x: str, branch: str | None, name: str) -> tuple[str, str]:
        """The bare norm; what its scale is called is kept for the products behind it."""
        normed, stream = super().add_norm(x, branch, name)
        self._norms[normed] = name
        return normed, stream

    def linear(self, x: str, *names: str) -> str:
        """A product that reads the stream behind a norm, or one whose result goes back to it."""
        weight = np.concatenate([self._weights.weight(name) for name in names])
        if x not in self._norms:
            return self._in_blocks(x, names[0], self._rotation.T @ weight)
        if names[0].endswith("attn_q.weight"):
            return self._in_blocks(x, names[0], self._behind_norm(x, weight))
        return self._in_rows(x, names[0], self._behind_norm(x, weight))

    def last_token(self, x: str) -> str:
        """Before the head, whose matrix is the largest of all."""
        last = super().last_token(x)
        self._norms[last] = self._norms[x]
        return last

    def _tied_head(self, x: str) -> str:
        return self._in_rows(x, "head", self._behind_norm(x, self._weights.weight(EMBEDDING)))

    def _norm_scale(self, name: str) -> str:
        del name
        return self._writer.constant("bare_norm", np.ones(self._config.hidden, np.float32))

    def _behind_norm(self, x: str, weight: Matrix) -> Matrix:
        scaled: Matrix = weight * self._weights.weight(self._norms[x])
        return scaled @ self._rotation

    def _in_blocks(self, x: str, name: str, weight: Matrix) -> str:
        return self._multiply_blocks(x, name, quantize_ranges(weight))

    def _in_rows(self, x: str, name: str, weight: Matrix) -> str:
        if x not in self._rounded:
            parts = [x, self._step, self._zero]
            self._rounded[x] = self._writer.node("QuantizeLinear", parts)
        rows = quantize_rows(weight)
        matrix = self._writer.constant(f"{name}.codes", rows.codes.T)
        scales = self._writer.constant(f"{name}.scales", rows.scales)
        parts = [self._rounded[x], matrix, self._step, scales, self._zero]
        return self._writer.node("MatMulIntegerToFloat", parts, domain=MS)
