"""Builds the decoder's graph with `onnx` alone: one graph for prefill and for decode.

Inputs are `input_ids [S, T]` and `write_index [S]` (how many positions each slot already holds);
the output is `logits [S, V]` of each row's last token. Keys and values live in buffers that the
caller owns: `past_k0 [S, kv_heads, context, head_dim]` and so on come in, `present_k0` ... go out
and are meant to be bound to the same memory. S and T are free: `[n, 1]` decodes slots 0..n-1,
`[1, T]` at any slot prefills it, from whatever position it has.

What differs between execution targets is behind `Lowering`; the walk over the layers is written
once. `OrtLowering` speaks ONNX Runtime's own operators: GroupQueryAttention reads only the valid
part of a slot (the standard Attention scans all of it), and MatMulNBits computes on int8 blocks.
`StandardLowering` is what TensorRT compiles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from onnx import TensorProto

from services.inference.graph.writer import GraphWriter
from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.quantization import BLOCK, stack
from services.inference.llm.standard_graph import OPSETS as STANDARD_OPSETS
from services.inference.llm.standard_graph import StandardForm, StandardLowering
from services.inference.llm.weights import Precision, WeightSource

GRAPH_VERSION = 3
"""Part of the key of a cached graph: raise it with every change to what is built here."""

_OPSETS = {"": 21, "com.microsoft": 1}
_EMBEDDING = "token_embd.weight"
_MS = "com.microsoft"
# int8 activations per block of 32: a row's result does not depend on its neighbours in the batch.
_INT8_COMPUTE = 4


class Lowering(Protocol):
    """How one target expresses the parts of a decoder layer."""

    def embed(self, ids: str) -> str:
        """Looks tokens up."""

    def add_norm(self, x: str, branch: str | None, name: str) -> tuple[str, str]:
        """Adds the branch to the residual stream; returns its norm and the stream."""

    def linear(self, x: str, *names: str) -> str:
        """Multiplies by a matrix `[out, in]`, or by several one under the other."""

    def add_bias(self, x: str, *names: str) -> str:
        """Adds a vector, or several one after the other."""

    def attention(self, qkv: str, layer: int) -> str:
        """Rotates, stores into the slots and attends, on packed queries, keys and values."""

    def gated(self, gate: str, up: str) -> str:
        """SiLU(gate) * up."""

    def last_token(self, x: str) -> str:
        """`[S, T, H]` to `[S, H]`."""

    def head(self, x: str) -> None:
        """The logits; without a matrix of its own, by the embedding's table."""


def build_decoder_graph(
    weights: WeightSource,
    config: LlamaConfig,
    *,
    context_tokens: int,
    precision: Precision,
    folder: Path,
) -> Path:
    """Writes the graph for ONNX Runtime into `folder`; returns its path."""
    writer = GraphWriter("decoder", folder)
    lowering = OrtLowering(writer, weights, config, context_tokens, precision)
    _walk(lowering, config)
    return writer.save(_OPSETS)


def build_standard_decoder_graph(
    weights: WeightSource, config: LlamaConfig, *, positions: int, form: StandardForm, folder: Path
) -> Path:
    """Writes the graph in standard operators, for slots of so many positions; returns its path."""
    writer = GraphWriter("decoder", folder)
    _walk(StandardLowering(writer, weights, config, positions, form), config)
    return writer.save(STANDARD_OPSETS)


def _walk(to: Lowering, config: LlamaConfig) -> None:
    stream = to.embed("input_ids")
    branch: str | None = None
    for layer in range(config.layers):
        block = f"blk.{layer}"
        normed, stream = to.add_norm(stream, branch, f"{block}.attn_norm.weight")
        branch = _attention(to, block, layer, normed, has_bias=config.qkv_bias)
        normed, stream = to.add_norm(stream, branch, f"{block}.ffn_norm.weight")
        branch = _feed_forward(to, block, normed)
    normed, _ = to.add_norm(stream, branch, "output_norm.weight")
    to.head(to.last_token(normed))


def _attention(to: Lowering, block: str, layer: int, x: str, *, has_bias: bool) -> str:
    packed = to.linear(x, *(f"{block}.attn_{part}.weight" for part in "qkv"))
    if has_bias:
        packed = to.add_bias(packed, *(f"{block}.attn_{part}.bias" for part in "qkv"))
    return to.linear(to.attention(packed, layer), f"{block}.attn_output.weight")


def _feed_forward(to: Lowering, block: str, x: str) -> str:
    gate = to.linear(x, f"{block}.ffn_gate.weight")
    up = to.linear(x, f"{block}.ffn_up.weight")
    return to.linear(to.gated(gate, up), f"{block}.ffn_down.weight")


class OrtLowering:
    """ONNX Runtime on a CPU."""

    def __init__(
        self,
        writer: GraphWriter,
        weights: WeightSource,
        config: LlamaConfig,
        context_tokens: int,
        precision: Precision,
    ) -> None:
        self._writer = writer
        self._weights = weights
        self._config = config
        self._context = context_tokens
        self._precision = precision
        self._declare_inputs()
        self._declare_rotary()

    def _declare_inputs(self) -> None:
        write = self._writer
        write.input("input_ids", TensorProto.INT64, ["S", "T"])
        write.input("write_index", TensorProto.INT64, ["S"])
        length = write.node("Shape", ["input_ids"], start=1, end=2)
        end = write.node("Add", ["write_index", length])
        one = write.constant("one", np.array([1], np.int64))
        last = write.node("Sub", [end, one])
        write.node("Cast", [last], ["last_position"], to=TensorProto.INT32)
        longest = write.node("ReduceMax", [end], keepdims=0)
        write.node("Cast", [longest], ["longest"], to=TensorProto.INT32)

    def _declare_rotary(self) -> None:
        pairs = np.arange(0, self._config.head_dim, 2) / self._config.head_dim
        frequencies = 1.0 / self._config.rope_theta**pairs
        if self._weights.has_weight("rope_freqs.weight"):
            frequencies = frequencies / self._weights.weight("rope_freqs.weight")
        angles = np.outer(np.arange(self._context), frequencies)
        self._writer.constant("cos", np.cos(angles).astype(np.float32))
        self._writer.constant("sin", np.sin(angles).astype(np.float32))

    def embed(self, ids: str) -> str:
        """Looks tokens up, in the same int8 table that the head multiplies by."""
        write = self._writer
        if self._precision == "fp32":
            table = self._weights.weight(_EMBEDDING)
            return write.node("Gather", [write.constant(_EMBEDDING, table), ids])
        matrix = self._weights.weight_int8(_EMBEDDING)
        write.constant(_codes(_EMBEDDING), matrix.codes.reshape(matrix.shape))
        write.constant(_scales(_EMBEDDING), matrix.scales)
        write.constant(_zeros(_EMBEDDING), matrix.zeros)
        return write.node(
            "GatherBlockQuantized",
            [_codes(_EMBEDDING), ids, _scales(_EMBEDDING), _zeros(_EMBEDDING)],
            domain=_MS,
            bits=8,
            block_size=BLOCK,
            gather_axis=0,
            quantize_axis=1,
        )

    def add_norm(self, x: str, branch: str | None, name: str) -> tuple[str, str]:
        """One fused operator from the second norm on."""
        write = self._writer
        write.constant(name, self._weights.weight(name))
        epsilon = self._config.rms_epsilon
        if branch is None:
            return write.node("SimplifiedLayerNormalization", [x, name], epsilon=epsilon), x
        outputs = [f"{name}.normed", "", "", f"{name}.stream"]
        write.node(
            "SkipSimplifiedLayerNormalization",
            [x, branch, name],
            outputs,
            domain=_MS,
            epsilon=epsilon,
        )
        return outputs[0], outputs[3]

    def linear(self, x: str, *names: str) -> str:
        """MatMulNBits on int8 blocks, or a plain product."""
        name = names[0]
        if self._precision == "fp32":
            weight = np.concatenate([self._weights.weight(part) for part in names])
            return self._writer.node("MatMul", [x, self._writer.constant(name, weight.T)])
        matrix = stack([self._weights.weight_int8(part) for part in names])
        self._writer.constant(_codes(name), matrix.codes)
        self._writer.constant(_scales(name), matrix.scales)
        self._writer.constant(_zeros(name), matrix.zeros)
        return self._matmul_int8(x, name, *matrix.shape)

    def add_bias(self, x: str, *names: str) -> str:
        """After the product: MatMulNBits adds its own bias no faster."""
        bias = np.concatenate([self._weights.weight(name) for name in names])
        return self._writer.node("Add", [x, self._writer.constant(names[0], bias)])

    def _matmul_int8(self, x: str, name: str, rows: int, columns: int) -> str:
        return self._writer.node(
            "MatMulNBits",
            [x, _codes(name), _scales(name), _zeros(name)],
            domain=_MS,
            N=rows,
            K=columns,
            bits=8,
            block_size=BLOCK,
            accuracy_level=_INT8_COMPUTE,
        )

    def attention(self, qkv: str, layer: int) -> str:
        """GroupQueryAttention, writing into the slots in place."""
        config, write = self._config, self._writer
        shape: list[int | str] = ["S", config.kv_heads, self._context, config.head_dim]
        past = [write.input(f"past_{c}{layer}", TensorProto.FLOAT, shape) for c in "kv"]
        present = [write.output(f"present_{c}{layer}", TensorProto.FLOAT, shape) for c in "kv"]
        return write.node(
            "GroupQueryAttention",
            [qkv, "", "", *past, "last_position", "longest", "cos", "sin"],
            [f"l{layer}_attention", *present],
            domain=_MS,
            num_heads=config.heads,
            kv_num_heads=config.kv_heads,
            scale=config.head_dim**-0.5,
            do_rotary=1,
            rotary_interleaved=0,
        )

    def gated(self, gate: str, up: str) -> str:
        """SiLU is QuickGelu with alpha 1."""
        activated = self._writer.node("QuickGelu", [gate], domain=_MS, alpha=1.0)
        return self._writer.node("Mul", [activated, up])

    def last_token(self, x: str) -> str:
        """Before the head, whose matrix is the largest of all."""
        last = self._writer.constant("last", np.array(-1, np.int64))
        return self._writer.node("Gather", [x, last], axis=1)

    def head(self, x: str) -> None:
        """Ties to the embedding by mapping the same bytes of the data file."""
        config, write = self._config, self._writer
        if not config.tied_embeddings:
            logits = self.linear(x, "output.weight")
        elif self._precision == "fp32":
            transposed = write.node("Transpose", [_EMBEDDING], perm=[1, 0])
            logits = write.node("MatMul", [x, transposed])
        else:
            shape = [config.vocabulary, config.hidden // BLOCK, BLOCK]
            write.view(_codes("head"), _codes(_EMBEDDING), shape)
            write.view(_scales("head"), _scales(_EMBEDDING), shape[:2])
            write.view(_zeros("head"), _zeros(_EMBEDDING), shape[:2])
            logits = self._matmul_int8(x, "head", config.vocabulary, config.hidden)
        write.node("Identity", [logits], ["logits"])
        write.output("logits", TensorProto.FLOAT, ["S", config.vocabulary])


def _codes(name: str) -> str:
    return f"{name}.codes"


def _scales(name: str) -> str:
    return f"{name}.scales"


def _zeros(name: str) -> str:
    return f"{name}.zeros"
