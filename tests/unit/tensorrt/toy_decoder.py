"""A decoder of two layers with random weights: small enough to build in a moment."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.quantization import BlockInt8, quantize

CONFIG = LlamaConfig(
    layers=2,
    hidden=64,
    intermediate=96,
    heads=4,
    kv_heads=2,
    head_dim=32,
    vocabulary=160,
    rope_theta=10_000.0,
    rms_epsilon=1e-5,
    trained_context_tokens=256,
    tied_embeddings=True,
)
_OUT_IN = {
    "attn_q": (128, 64),
    "attn_k": (64, 64),
    "attn_v": (64, 64),
    "attn_output": (64, 128),
    "ffn_gate": (96, 64),
    "ffn_up": (96, 64),
    "ffn_down": (64, 96),
    "token_embd": (160, 64),
    "output": (160, 64),
}


class ToyWeights:
    """Weights by GGUF's names; the same name gives the same values."""

    def weight(self, name: str) -> NDArray[np.float32]:
        random = np.random.default_rng(zlib.crc32(name.encode()))
        part = name.removesuffix(".weight").rpartition(".")[2]
        if part not in _OUT_IN:
            return (1 + 0.1 * random.standard_normal(CONFIG.hidden)).astype(np.float32)
        shape = _OUT_IN[part]
        # Large enough for the layers to matter more than the token that came last.
        scale = 1.0 if part == "token_embd" else 2.0 / np.sqrt(shape[1])
        return (scale * random.standard_normal(shape)).astype(np.float32)

    def weight_int8(self, name: str) -> BlockInt8:
        return quantize(self.weight(name))

    def has_weight(self, name: str) -> bool:
        return name != "rope_freqs.weight"
