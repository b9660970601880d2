"""The CPU's decoder on whole rows of int8: the processor's own integer products, in exact sums.

One step per output and one per token let a product run three times as fast as one on blocks, but
rounding so coarsely costs an ordinary model 3 % of perplexity: a few places of the residual stream
and of the feed-forward's inside are a hundred times as large as the others. So everything that is
rounded is rotated first (`rotation`), and the weights undo it:

- the residual stream by one orthogonal matrix, from the embedding to the head; the norms' own
  scales go into the matrices behind them, for a bare root mean square norm does not see a rotation;
- the values of attention within each head, by the matrices before and behind it;
- the inside of the feed-forward at run time, in blocks, just before its last product.

A norm's output has a root mean square of one, so its step is a constant; the other two inputs are
divided by their largest value, token by token. Nothing depends on the neighbours in a batch.
"""

from __future__ import annotations

import numpy as np

from services.inference.graph.writer import GraphWriter
from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.block_graph import BlockLowering
from services.inference.llm.ort_graph import EMBEDDING, MS
from services.inference.llm.quantization import quantize, quantize_rows
from services.inference.llm.rotation import Matrix, block_size, mix_blocks, rotation
from services.inference.llm.rotation import hadamard as make_hadamard
from services.inference.llm.weights import WeightSource

_LARGEST_CODE = 127
_NORM_REACH = 3.5
"""Beyond this a norm's output is cut: finer steps for all are worth one value in two thousand."""


class RotatedLowering(BlockLowering):
    """Matrices of int8 rows, in a rotated model."""

    def __init__(
        self, writer: GraphWriter, weights: WeightSource, config: LlamaConfig, context_tokens: int
    ) -> None:
        super().__init__(writer, weights, config, context_tokens)
        self._rotation = rotation(config.hidden)
        self._norms: dict[str, str] = {}
        self._rounded: dict[str, str] = {}
        self._one = writer.constant("one_step", np.array(1 / _LARGEST_CODE, np.float32))
        step = np.array(_NORM_REACH / _LARGEST_CODE, np.float32)
        self._norm_step = writer.constant("norm_step", step)
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
        weight = np.concatenate([self._matrix(name) for name in names])
        if x in self._norms:
            return self._from_stream(x, names[0], weight)
        if names[0].endswith("ffn_down.weight"):
            x, weight = self._mix(x), mix_blocks(weight, block_size(weight.shape[1]))
        return self._to_stream(x, names[0], self._rotation.T @ weight)

    def add_bias(self, x: str, *names: str) -> str:
        """As far as the values of attention are rotated, so is their bias."""
        bias: Matrix = np.concatenate([self._bias(name) for name in names])
        return self._writer.node("Add", [x, self._writer.constant(names[0], bias)])

    def last_token(self, x: str) -> str:
        """Before the head, whose matrix is the largest of all."""
        last = super().last_token(x)
        self._norms[last] = self._norms[x]
        return last

    def _tied_head(self, x: str) -> str:
        return self._from_stream(x, "head", self._weights.weight(EMBEDDING))

    def _norm_scale(self, name: str) -> str:
        del name
        return self._writer.constant("bare_norm", np.ones(self._config.hidden, np.float32))

    def _matrix(self, name: str) -> Matrix:
        weight = self._weights.weight(name)
        size = block_size(self._config.head_dim)
        if name.endswith("attn_v.weight"):
            return mix_blocks(weight.T, size).T
        if name.endswith("attn_output.weight"):
            return mix_blocks(weight, size)
        return weight

    def _bias(self, name: str) -> Matrix:
        bias = self._weights.weight(name)
        is_value = name.endswith("attn_v.bias")
        return mix_blocks(bias, block_size(self._config.head_dim)) if is_value else bias

    def _from_stream(self, x: str, name: str, weight: Matrix) -> str:
        scaled: Matrix = weight * self._weights.weight(self._norms[x])
        if x not in self._rounded:
            self._rounded[x] = self._round(x, self._norm_step)
        return self._product(self._rounded[x], self._norm_step, name, scaled @ self._rotation)

    def _to_stream(self, x: str, name: str, weight: Matrix) -> str:
        write = self._writer
        last_axis = write.constant("last_axis", np.array([-1], np.int64))
        largest = write.node("ReduceMax", [write.node("Abs", [x]), last_axis], keepdims=1)
        # A token of zeros becomes 0 / 0, hence any codes, and is then multiplied by 0.
        codes = self._round(write.node("Div", [x, largest]), self._one)
        return write.node("Mul", [self._product(codes, self._one, name, weight), largest])

    def _mix(self, x: str) -> str:
        write, length = self._writer, self._config.intermediate
        size = block_size(length)
        blocks = write.constant("blocks", np.array([0, 0, length // size, size], np.int64))
        matrix = write.constant("block_rotation", make_hadamard(size))
        mixed = write.node("MatMul", [write.node("Reshape", [x, blocks]), matrix])
        whole = write.constant("whole", np.array([0, 0, length], np.int64))
        return write.node("Reshape", [mixed, whole])

    def _round(self, x: str, step: str) -> str:
        return self._writer.node("QuantizeLinear", [x, step, self._zero])

    def _product(self, codes: str, step: str, name: str, weight: Matrix) -> str:
        rows = quantize_rows(weight)
        matrix = self._writer.constant(f"{name}.codes", rows.codes.T)
        scales = self._writer.constant(f"{name}.scales", rows.scales)
        parts = [codes, matrix, step, scales, self._zero]
        return self._writer.node("MatMulIntegerToFloat", parts, domain=MS)
