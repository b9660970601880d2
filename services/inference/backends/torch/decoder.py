"""The Llama family in torch, written plainly: weights, and one walk over the layers.

It knows no slots: what attention reads and writes is handed in as a function, so that prefill,
decode and a captured graph of decode share the walk. Norms, rotation and the softmax are computed
in float32 whatever the type of the weights.

On a CPU the rows of every product are padded to a multiple of eight: the library picks its kernel
by the number of rows, and kernels for odd and small numbers add in another order. With the padding
a row's result is the same to the bit in any company.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  # as the library's own code has it

from services.inference.backends.torch.placement import Place, tensor_bytes
from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.weights import WeightSource

ROWS = 8
"""Products have a multiple of so many rows."""

Attend = Callable[[int, Any, Any, Any], Any]
"""Of a layer, queries `[rows, heads, dim]`, keys and values `[rows, kv_heads, dim]`; flat rows."""


class _Layer:
    """One layer's weights; what is multiplied with the same input is one matrix."""

    def __init__(self, weights: WeightSource, index: int, place: Place) -> None:
        def put(*names: str) -> Any:
            parts = [weights.weight(f"blk.{index}.{name}") for name in names]
            return place.put(np.concatenate(parts))

        qkv = [f"attn_{part}" for part in "qkv"]
        self.attention_norm = put("attn_norm.weight")
        self.qkv = put(*(f"{part}.weight" for part in qkv))
        has_bias = weights.has_weight(f"blk.{index}.attn_q.bias")
        self.qkv_bias = put(*(f"{part}.bias" for part in qkv)) if has_bias else None
        self.output = put("attn_output.weight")
        self.feed_forward_norm = put("ffn_norm.weight")
        self.gate_up = put("ffn_gate.weight", "ffn_up.weight")
        self.down = put("ffn_down.weight")

    @property
    def memory_bytes(self) -> int:
        return tensor_bytes(*(each for each in vars(self).values() if each is not None))


class TorchDecoder:
    """A decoder's weights on a device."""

    def __init__(
        self, weights: WeightSource, config: LlamaConfig, positions: int, place: Place
    ) -> None:
        self._config = config
        self._embedding = place.put(weights.weight("token_embd.weight"))
        self._layers = [_Layer(weights, index, place) for index in range(config.layers)]
        self._norm = place.put(weights.weight("output_norm.weight"))
        tied = config.tied_embeddings
        self._head = self._embedding if tied else place.put(weights.weight("output.weight"))
        self._cos, self._sin = _rotation(weights, config, positions, place)
        extra = [] if tied else [self._head]
        self.memory_bytes = tensor_bytes(
            self._embedding, self._norm, self._cos, self._sin, *extra
        ) + sum(layer.memory_bytes for layer in self._layers)

    def run(self, ids: Any, positions: Any, attend: Attend) -> Any:
        """The residual stream `[rows, hidden]` after the last layer."""
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]
        x = F.embedding(ids, self._embedding)
        for index, layer in enumerate(self._layers):
            q, k, v = self._project(layer, self._normed(x, layer.attention_norm), cos, sin)
            attended = attend(index, q, k, v)
            x = x + F.linear(attended, layer.output)
            gate, up = F.linear(self._normed(x, layer.feed_forward_norm), layer.gate_up).chunk(2, 1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        return x

    def logits(self, x: Any) -> Any:
        """The logits `[rows, vocabulary]` in float32."""
        return F.linear(self._normed(x, self._norm), self._head).float()

    def _project(self, layer: _Layer, x: Any, cos: Any, sin: Any) -> tuple[Any, Any, Any]:
        config, rows = self._config, x.shape[0]
        packed = F.linear(x, layer.qkv, layer.qkv_bias).view(rows, -1, config.head_dim)
        turned, v = packed.split((config.heads + config.kv_heads, config.kv_heads), dim=1)
        # Together: on a GPU half as many launches.
        q, k = _rotate(turned, cos, sin).split((config.heads, config.kv_heads), dim=1)
        return q, k, v

    def _normed(self, x: Any, weight: Any) -> Any:
        if x.is_cuda:  # the same in one launch instead of six; on a CPU the bits are to stay
            return F.rms_norm(x, weight.shape, weight, self._config.rms_epsilon)
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._config.rms_epsilon)
        return (wide * scale).to(x.dtype) * weight


def _rotation(
    weights: WeightSource, config: LlamaConfig, positions: int, place: Place
) -> tuple[Any, Any]:
    frequencies = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    if weights.has_weight("rope_freqs.weight"):
        frequencies = frequencies / weights.weight("rope_freqs.weight")
    angles = np.outer(np.arange(positions), frequencies)
    cos, sin = (f(angles).astype(np.float32) for f in (np.cos, np.sin))
    return torch.from_numpy(cos).to(place.device), torch.from_numpy(sin).to(place.device)


def _rotate(x: Any, cos: Any, sin: Any) -> Any:
    low, high = x.float().chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)
