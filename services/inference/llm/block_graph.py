"""The CPU's decoder on int8 blocks: closest to the model's file, by MatMulNBits.

Activations are rounded to int8 in blocks of 32 too, so a row's result does not depend on its
neighbours in the batch.
"""

from __future__ import annotations

from services.inference.llm.ort_graph import EMBEDDING, MS, OrtLowering
from services.inference.llm.quantization import BLOCK, BlockInt8, stack

_INT8_COMPUTE = 4


class BlockLowering(OrtLowering):
    """Matrices of int8 blocks; the head is the embedding's table where the two are tied."""

    def embed(self, ids: str) -> str:
        """Looks tokens up, in the same int8 table that the head multiplies by."""
        return self._embed(ids, self._weights.weight_int8(EMBEDDING))

    def linear(self, x: str, *names: str) -> str:
        """MatMulNBits."""
        matrix = stack([self._weights.weight_int8(part) for part in names])
        return self._multiply_blocks(x, names[0], matrix)

    def _tied_head(self, x: str) -> str:
        """Maps the same bytes of the data file."""
        config, write = self._config, self._writer
        shape = [config.vocabulary, config.hidden // BLOCK, BLOCK]
        write.view("head.codes", f"{EMBEDDING}.codes", shape)
        write.view("head.scales", f"{EMBEDDING}.scales", shape[:2])
        write.view("head.zeros", f"{EMBEDDING}.zeros", shape[:2])
        return self._multiply(x, "head", (config.vocabulary, config.hidden), BLOCK)

    def _embed(self, ids: str, table: BlockInt8) -> str:
        write = self._writer
        parts = [
            write.constant(f"{EMBEDDING}.codes", table.codes.reshape(table.shape)),
            ids,
            write.constant(f"{EMBEDDING}.scales", table.scales),
            write.constant(f"{EMBEDDING}.zeros", table.zeros),
        ]
        return write.node(
            "GatherBlockQuantized",
            parts,
            domain=MS,
            bits=8,
            block_size=BLOCK,
            gather_axis=0,
            quantize_axis=1,
        )

    def _multiply_blocks(self, x: str, name: str, matrix: BlockInt8) -> str:
        write = self._writer
        write.constant(f"{name}.codes", matrix.codes)
        write.constant(f"{name}.scales", matrix.scales)
        write.constant(f"{name}.zeros", matrix.zeros)
        return self._multiply(x, name, matrix.shape, matrix.block)

    def _multiply(self, x: str, name: str, shape: tuple[int, int], block: int) -> str:
        return self._writer.node(
            "MatMulNBits",
            [x, f"{name}.codes", f"{name}.scales", f"{name}.zeros"],
            domain=MS,
            N=shape[0],
            K=shape[1],
            bits=8,
            block_size=block,
            accuracy_level=_INT8_COMPUTE,
        )
