"""Builds the decoder's graph with `onnx` alone: one graph for prefill and for decode.

Inputs are `input_ids [S, T]` and `write_index [S]` (how many positions each slot already holds);
the output is `logits [S, V]` of each row's last token. Keys and values live in buffers that the
caller owns: `past_k0 [S, kv_heads, context, head_dim]` and so on come in, `present_k0` ... go out
and are meant to be bound to the same memory. S and T are free: `[n, 1]` decodes slots 0..n-1,
`[1, T]` at any slot prefills it, from whatever position it has.

What differs between execution targets is behind `Lowering`; the walk over the layers is written
once. `OrtLowering` and its two heirs speak ONNX Runtime's own operators, one for each precision;
`StandardLowering` is what TensorRT compiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from services.inference.graph.writer import GraphWriter
from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.block_graph import BlockLowering
from services.inference.llm.ort_graph import OPSETS, OrtLowering
from services.inference.llm.rotated_graph import RotatedLowering
from services.inference.llm.standard_graph import OPSETS as STANDARD_OPSETS
from services.inference.llm.standard_graph import StandardForm, StandardLowering
from services.inference.llm.weights import Precision, WeightSource

GRAPH_VERSION = 6
"""Part of the key of a cached graph: raise it with every change to what is built here."""

_LOWERINGS: Mapping[Precision, type[OrtLowering]] = MappingProxyType(
    {"int8": RotatedLowering, "int8-blocks": BlockLowering, "fp32": OrtLowering}
)


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
    _walk(_LOWERINGS[precision](writer, weights, config, context_tokens), config)
    return writer.save(OPSETS)


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
