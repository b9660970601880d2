"""The decoder in ONNX Runtime's own operators for a CPU, in float32.

GroupQueryAttention reads only the valid part of a slot, where the standard Attention scans all of
it. How matrices are kept and multiplied is what `BlockLowering` and `RotatedLowering` change.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from services.inference.graph.writer import GraphWriter
from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.weights import WeightSource

MS = "com.microsoft"
OPSETS = {"": 21, MS: 1}
EMBEDDING = "token_embd.weight"


class OrtLowering:
    """ONNX Runtime on a CPU."""

    def __init__(
        self, writer: GraphWriter, weights: WeightSource, config: LlamaConfig, context_tokens: int
    ) -> None:
        self._writer = writer
        self._weights = weights
        self._config = config
        self._context = context_tokens
        self._declare_inputs()
        self._declare_rotary()

    def embed(self, ids: str) -> str:
        """Looks tokens up in the plain table."""
        table = self._writer.constant(EMBEDDING, self._weights.weight(EMBEDDING))
        return self._writer.node("Gather", [table, ids])

    def add_norm(self, x: str, branch: str | None, name: str) -> tuple[str, str]:
        """One fused operator from the second norm on."""
        write = self._writer
        scale = self._norm_scale(name)
        epsilon = self._config.rms_epsilon
        if branch is None:
            return write.node("SimplifiedLayerNormalization", [x, scale], epsilon=epsilon), x
        outputs = [f"{name}.normed", "", "", f"{name}.stream"]
        write.node(
            "SkipSimplifiedLayerNormalization",
            [x, branch, scale],
            outputs,
            domain=MS,
            epsilon=epsilon,
        )
        return outputs[0], outputs[3]

    def linear(self, x: str, *names: str) -> str:
        """A plain product."""
        weight = np.concatenate([self._weights.weight(name) for name in names])
        return self._writer.node("MatMul", [x, self._writer.constant(names[0], weight.T)])

    def add_bias(self, x: str, *names: str) -> str:
        """After the product: MatMulNBits adds its own bias no faster."""
        bias = np.concatenate([self._weights.weight(name) for name in names])
        return self._writer.node("Add", [x, self._writer.constant(names[0], bias)])

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
            domain=MS,
            num_heads=config.heads,
            kv_num_heads=config.kv_heads,
            scale=config.head_dim**-0.5,
            do_rotary=1,
            rotary_interleaved=0,
        )

    def gated(self, gate: str, up: str) -> str:
        """SiLU is QuickGelu with alpha 1."""
        activated = self._writer.node("QuickGelu", [gate], domain=MS, alpha=1.0)
        return self._writer.node("Mul", [activated, up])

    def last_token(self, x: str) -> str:
        """Before the head, whose matrix is the largest of all."""
        last = self._writer.constant("last", np.array(-1, np.int64))
        return self._writer.node("Gather", [x, last], axis=1)

    def head(self, x: str) -> None:
        """The logits."""
        write = self._writer
        tied = self._config.tied_embeddings
        logits = self._tied_head(x) if tied else self.linear(x, "output.weight")
        write.node("Identity", [logits], ["logits"])
        write.output("logits", TensorProto.FLOAT, ["S", self._config.vocabulary])

    def _tied_head(self, x: str) -> str:
        transposed = self._writer.node("Transpose", [EMBEDDING], perm=[1, 0])
        return self._writer.node("MatMul", [x, transposed])

    def _norm_scale(self, name: str) -> str:
        return self._writer.constant(name, self._weights.weight(name))

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
