"""A decoder in standard ONNX operators (opset 24): what TensorRT compiles, and its oracle.

The same slots and the same walk over the layers as the graph for ONNX Runtime, said in operators
that every runtime knows: TensorScatter writes into a slot in place, Attention takes fewer heads of
keys than of queries and a mask of what a position may see. One input more, `last_index [S]`, names
the token of each row whose logits are wanted, so that runs can be padded to a few fixed widths.

Activations are of one type throughout (TensorRT types strongly); logits are always float32. With
float32 activations the graph runs on a CPU and must give the tokens that the CPU's own graph gives:
that is how an engine's graph is held to account on machines that cannot run the engine.

Quantised weights are symmetric blocks of 32 down the columns, for TensorRT takes no zero points.
Token vectors are looked up in a plain table: a lookup reads few rows, whatever their type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from services.inference.graph.writer import GraphWriter
from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.symmetric import BLOCK, can_be_blocks, symmetric_blocks
from services.inference.llm.weights import WeightSource

OPSETS = {"": 24}
GRAPH_VERSION = 1
"""Part of the key of an engine: raise it with every change to what is built here."""
_EMBEDDING = "token_embd.weight"

Element = Literal["fp32", "fp16", "bf16"]
WeightForm = Literal["plain", "int8", "int4"]

_ONNX_TYPES: dict[Element, int] = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
}


@dataclass(frozen=True, slots=True)
class StandardForm:
    """What the graph computes in, and how its matrices are kept."""

    element: Element = "fp16"
    weights: WeightForm = "plain"

    def __str__(self) -> str:
        return self.element if self.weights == "plain" else f"{self.weights}-{self.element}"

    @property
    def element_bytes(self) -> int:
        """The size of one value of keys and values."""
        return 4 if self.element == "fp32" else 2


class StandardLowering:
    """The parts of a decoder layer in standard operators."""

    def __init__(
        self,
        writer: GraphWriter,
        weights: WeightSource,
        config: LlamaConfig,
        positions: int,
        form: StandardForm,
    ) -> None:
        self._writer = writer
        self._weights = weights
        self._config = config
        self._positions = positions
        self._form = form
        self._type = _ONNX_TYPES[form.element]
        self._numpy_type: Any = helper.tensor_dtype_to_np_dtype(self._type)
        self._declare_inputs()
        self._declare_rotary()

    def embed(self, ids: str) -> str:
        """Looks tokens up in the plain table."""
        table = self._constant(_EMBEDDING, self._weights.weight(_EMBEDDING))
        return self._writer.node("Gather", [table, ids])

    def add_norm(self, x: str, branch: str | None, name: str) -> tuple[str, str]:
        """A sum and its root mean square norm."""
        stream = x if branch is None else self._writer.node("Add", [x, branch])
        scale = self._constant(name, self._weights.weight(name))
        epsilon = self._config.rms_epsilon
        normed = self._writer.node("RMSNormalization", [stream, scale], axis=-1, epsilon=epsilon)
        return normed, stream

    def linear(self, x: str, *names: str) -> str:
        """One product, of a plain matrix or of one that is dequantised on the way."""
        weight = np.concatenate([self._weights.weight(name) for name in names])
        return self._writer.node("MatMul", [x, self._matrix(names[0], weight)])

    def add_bias(self, x: str, *names: str) -> str:
        """Adds a vector, or several one after the other."""
        bias = np.concatenate([self._weights.weight(name) for name in names])
        return self._writer.node("Add", [x, self._constant(names[0], bias)])

    def attention(self, qkv: str, layer: int) -> str:
        """Rotates queries and keys, writes into the slots, attends to what the mask lets see."""
        config, write = self._config, self._writer
        q, k, v = self._split_heads(qkv, layer)
        q, k = (write.node("RotaryEmbedding", [x, "cos", "sin", "positions"]) for x in (q, k))
        kept = [self._store(name, layer, x) for name, x in (("k", k), ("v", v))]
        scale = config.head_dim**-0.5
        attended = write.node("Attention", [q, *kept, "mask"], scale=scale)
        rows = write.node("Transpose", [attended], perm=[0, 2, 1, 3])
        return write.node("Reshape", [rows, self._ints(0, 0, config.heads * config.head_dim)])

    def gated(self, gate: str, up: str) -> str:
        """SiLU(gate) * up."""
        write = self._writer
        activated = write.node("Mul", [gate, write.node("Sigmoid", [gate])])
        return write.node("Mul", [activated, up])

    def last_token(self, x: str) -> str:
        """The token of each row that `last_index` names."""
        place = self._writer.node("Unsqueeze", ["last_index", self._ints(1)])
        return self._writer.node("GatherND", [x, place], batch_dims=1)

    def head(self, x: str) -> None:
        """The logits in float32."""
        config, write = self._config, self._writer
        name = _EMBEDDING if config.tied_embeddings else "output.weight"
        if self._form.weights == "plain" and config.tied_embeddings:
            table = write.node("Transpose", [_EMBEDDING], perm=[1, 0])
        else:
            table = self._matrix(f"head.{name}", self._weights.weight(name))
        logits = write.node("MatMul", [x, table])
        write.node("Cast", [logits], ["logits"], to=TensorProto.FLOAT)
        write.output("logits", TensorProto.FLOAT, ["S", config.vocabulary])

    def _declare_inputs(self) -> None:
        write = self._writer
        write.input("input_ids", TensorProto.INT64, ["S", "T"])
        write.input("write_index", TensorProto.INT64, ["S"])
        write.input("last_index", TensorProto.INT64, ["S"])
        width = write.node("Squeeze", [write.node("Shape", ["input_ids"], start=1, end=2)])
        steps = write.node("Range", [self._int("zero", 0), width, self._int("one", 1)])
        begin = write.node("Unsqueeze", ["write_index", self._ints(1)])
        positions = write.node("Add", [begin, steps])
        every = write.constant("every_position", np.arange(self._positions, dtype=np.int64))
        asking = write.node("Unsqueeze", [positions, self._ints(1, 3)])
        write.node("LessOrEqual", [every, asking], ["mask"])
        # Padding may count past the tables' end; what it computes is never looked at.
        last = self._int("last_position", self._positions - 1)
        write.node("Min", [positions, last], ["positions"])

    def _declare_rotary(self) -> None:
        pairs = np.arange(0, self._config.head_dim, 2) / self._config.head_dim
        frequencies = 1.0 / self._config.rope_theta**pairs
        if self._weights.has_weight("rope_freqs.weight"):
            frequencies = frequencies / self._weights.weight("rope_freqs.weight")
        angles = np.outer(np.arange(self._positions), frequencies)
        self._constant("cos", np.cos(angles))
        self._constant("sin", np.sin(angles))

    def _split_heads(self, qkv: str, layer: int) -> list[str]:
        config, write = self._config, self._writer
        heads = (config.heads, config.kv_heads, config.kv_heads)
        sizes = self._ints(*(count * config.head_dim for count in heads))
        parts = [f"l{layer}_{part}" for part in "qkv"]
        write.node("Split", [qkv, sizes], parts, axis=-1)
        return [self._heads(x, count) for x, count in zip(parts, heads, strict=True)]

    def _heads(self, x: str, count: int) -> str:
        shape = self._ints(0, 0, count, self._config.head_dim)
        rows = self._writer.node("Reshape", [x, shape])
        return self._writer.node("Transpose", [rows], perm=[0, 2, 1, 3])

    def _store(self, name: str, layer: int, x: str) -> str:
        config, write = self._config, self._writer
        shape: list[int | str] = ["S", config.kv_heads, self._positions, config.head_dim]
        past = write.input(f"past_{name}{layer}", self._type, shape)
        present = write.output(f"present_{name}{layer}", self._type, shape)
        parts = [past, x, "write_index"]
        return write.node("TensorScatter", parts, [present], axis=-2, mode="linear")

    def _matrix(self, name: str, weight: NDArray[np.float32]) -> str:
        """`[in, out]` in the graph, from `[out, in]`."""
        form, write = self._form.weights, self._writer
        if form == "plain" or not can_be_blocks(weight):
            return self._constant(name, weight.T)
        blocks = symmetric_blocks(weight, 8 if form == "int8" else 4)
        scales = self._constant(f"{name}.scales", blocks.scales.T)
        store = write.constant if form == "int8" else write.int4
        codes = store(f"{name}.codes", blocks.codes.T)
        return write.node("DequantizeLinear", [codes, scales], axis=0, block_size=BLOCK)

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        return self._writer.constant(name, values.astype(self._numpy_type))

    def _int(self, name: str, value: int) -> str:
        return self._writer.constant(name, np.array(value, np.int64))

    def _ints(self, *values: int) -> str:
        name = "_".join(("ints", *map(str, values)))
        return self._writer.constant(name, np.array(values, np.int64))
