"""The BERT family in torch: token ids and lengths in, one vector or one row of scores per row out.

The same network as `encoders.bert_graph` writes for other engines, from the same weights by the
same names. On a CPU a row's answer is the same to the bit in any company, because rows are padded
to a multiple of eight tokens, whatever width they come in: see `decoder` for why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812  # as the library's own code has it

from mesh.errors import FailedPrecondition
from mesh.tensor import Array
from services.inference.backends.backend import GraphTensor, check_token_ids
from services.inference.backends.torch.decoder import ROWS
from services.inference.backends.torch.placement import Place, opening, running, tensor_bytes
from services.inference.encoders.bert_config import BertConfig
from services.inference.encoders.bert_graph import EMBEDDING, SCORES
from services.inference.encoders.bert_source import BertSource

_ACTIVATIONS = {
    "softmax": lambda x: torch.softmax(x, -1),
    "sigmoid": torch.sigmoid,
    "none": lambda x: x,
}


def open_encoder(source: BertSource, place: Place) -> TorchEncoder:
    """Loads an encoder; blocking."""
    with opening(), torch.inference_mode():
        return TorchEncoder(_Weights(source.load_weights(), place), source.config, place)


class _Weights:
    """Weights on the device; what has been put there is counted."""

    def __init__(self, weights: Mapping[str, NDArray[Any]], place: Place) -> None:
        self._weights = weights
        self._place = place
        self._put: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._put:
            self._put[name] = self._place.put(self.array(name))
        return self._put[name]

    def array(self, name: str) -> NDArray[np.float32]:
        """The weight as it is in the file, in float32."""
        if name not in self._weights:
            raise FailedPrecondition(f"the weights have no tensor {name!r}")
        return self._weights[name].astype(np.float32)

    def pair(self, name: str) -> tuple[Any, Any]:
        """A matrix or scale, and its bias."""
        return self[f"{name}.weight"], self[f"{name}.bias"]

    @property
    def memory_bytes(self) -> int:
        return tensor_bytes(*self._put.values())


class TorchEncoder:
    """An encoder of the BERT family on a device."""

    is_concurrent = True

    def __init__(self, weights: _Weights, config: BertConfig, place: Place) -> None:
        self._config = config
        self._place = place
        self._weights = weights
        self._positions = place.put(_positions(weights, config))
        head = config.classifier
        output, width = (EMBEDDING, config.hidden) if head is None else (SCORES, len(head.labels))
        self.inputs = (
            GraphTensor("input_ids", "INT64", (-1, -1)),
            GraphTensor("lengths", "INT64", (-1,)),
        )
        self.outputs = (GraphTensor(output, "FP32", (-1, width)),)
        self._vocabulary = len(weights["embeddings.word_embeddings.weight"])
        self._forward(torch.zeros(1, ROWS, dtype=torch.int64), torch.ones(1, dtype=torch.int64))
        self.memory_bytes = weights.memory_bytes + tensor_bytes(self._positions)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """The one output, as often as it is named."""
        check_token_ids(inputs["input_ids"], self._vocabulary)
        ids, lengths = (torch.tensor(inputs[name]) for name in ("input_ids", "lengths"))
        with running():
            answer: NDArray[np.float32] = self._forward(ids, lengths).float().cpu().numpy()
        return [answer for _ in outputs]

    def close(self) -> None:
        """Gives the memory back to the device, not just to torch's pool."""
        del self._weights, self._positions
        if self._place.is_gpu:
            torch.cuda.empty_cache()

    def _forward(self, ids: Any, lengths: Any) -> Any:
        ids, lengths = ids.to(self._place.device), lengths.to(self._place.device)
        ids = F.pad(ids, (0, -ids.shape[1] % ROWS))
        rows, tokens = ids.shape
        mask = torch.arange(tokens, device=ids.device) < lengths[:, None]
        words = F.embedding(ids, self._weights["embeddings.word_embeddings.weight"])
        x = self._normed(words + self._positions[:tokens], "embeddings.LayerNorm")
        for layer in range(self._config.layers):
            x = self._layer(x, mask[:, None, None], f"encoder.layer.{layer}")
        if self._config.classifier is not None:
            return self._scores(x[:, 0])[:rows]
        pooled = x[:, 0] if self._config.pooling == "cls" else _mean(x, mask, lengths)
        return F.normalize(pooled.float(), dim=-1) if self._config.normalize else pooled

    def _layer(self, x: Any, mask: Any, name: str) -> Any:
        own = f"{name}.attention.self"
        q, k, v = (self._heads(self._linear(x, f"{own}.{p}")) for p in ("query", "key", "value"))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        flat = attended.transpose(1, 2).reshape(x.shape)
        projected = self._linear(flat, f"{name}.attention.output.dense")
        x = self._normed(x + projected, f"{name}.attention.output.LayerNorm")
        inner = F.gelu(
            self._linear(x, f"{name}.intermediate.dense"),
            approximate=self._config.gelu_approximation,
        )
        return self._normed(
            x + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm"
        )

    def _scores(self, first: Any) -> Any:
        # Always products of the same shape: with few labels, even that of whole ones matters.
        padded = F.pad(first, (0, 0, 0, -len(first) % ROWS))
        return torch.cat([self._head(rows) for rows in padded.split(ROWS)])

    def _head(self, rows: Any) -> Any:
        dense = self._linear(rows, "head.dense")
        hidden = F.relu(dense) if self._config.family == "distilbert" else torch.tanh(dense)
        head = self._config.classifier
        activate = _ACTIVATIONS["none" if head is None else head.activation]
        return activate(self._linear(hidden, "head.out").float())

    def _heads(self, x: Any) -> Any:
        rows, tokens, hidden = x.shape
        heads = self._config.heads
        return x.view(rows, tokens, heads, hidden // heads).transpose(1, 2)

    def _linear(self, x: Any, name: str) -> Any:
        return F.linear(x, *self._weights.pair(name))

    def _normed(self, x: Any, name: str) -> Any:
        scale, bias = self._weights.pair(name)
        return F.layer_norm(x, (x.shape[-1],), scale, bias, self._config.epsilon)


def _positions(weights: _Weights, config: BertConfig) -> NDArray[np.float32]:
    """The vector of each position, and of what rows of the greatest length are padded with."""
    table = weights.array("embeddings.position_embeddings.weight")[config.position_offset :]
    table = np.pad(table, ((0, -len(table) % ROWS), (0, 0)))
    if config.family == "distilbert":
        return table
    # Every token is of type 0, so its vector is part of the position's.
    types: NDArray[np.float32] = weights.array("embeddings.token_type_embeddings.weight")
    summed: NDArray[np.float32] = table + types[0]
    return summed


def _mean(x: Any, mask: Any, lengths: Any) -> Any:
    kept = torch.where(mask[:, :, None], x.float(), 0.0)
    return kept.sum(1) / lengths[:, None]
