"""The graph of an encoder of the BERT family, written from its weights in standard ONNX operators.

Token ids and lengths in, one vector per row out, or a classifier's scores; masking, pooling,
normalisation and the softmax are inside. The three projections of attention are one matrix. Each
row is computed on its own: nothing in the graph mixes rows, so a row's answer depends on its own
tokens and on how far it is padded, and on nothing else (the batcher pads a row by its own length
alone).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from mesh.errors import FailedPrecondition
from services.inference.encoders.bert_config import BertConfig, ClassifierHead
from services.inference.encoders.bert_weights import Weights
from services.inference.graph.writer import GraphWriter

GRAPH_VERSION = 3
"""Raised whenever the same weights would give another graph: part of the key of a cached graph."""
OPSET = 23  # the first with Attention
EMBEDDING, SCORES = "embedding", "scores"
"""What the one output is called."""
_ACTIVATIONS = {"softmax": "Softmax", "sigmoid": "Sigmoid", "none": "Identity"}


def build_bert_graph(weights: Weights, config: BertConfig, folder: Path) -> Path:
    """Writes the graph and its weights into `folder`; returns the graph's path."""
    return _Builder(_Named(weights), config, GraphWriter("bert-encoder", folder)).build()


class _Named:
    """Weights by the names of a bare `BertModel`, as `bert_weights` gives them, in float32."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name not in self._weights:
            raise FailedPrecondition(f"the weights have no tensor {name!r}")
        return self._weights[name].astype(np.float32, copy=False)


class _Builder:
    def __init__(self, weights: _Named, config: BertConfig, graph: GraphWriter) -> None:
        self._weights = weights
        self._config = config
        self._graph = graph

    def build(self) -> Path:
        graph = self._graph
        ids = graph.input("input_ids", TensorProto.INT64, ["rows", "tokens"])
        lengths = graph.input("lengths", TensorProto.INT64, ["rows"])
        positions, mask = self._positions_and_mask(ids, lengths)
        x = self._embed(ids, positions)
        attention_mask = self._attention_mask(mask, ids)
        for layer in range(self._config.layers):
            x = self._layer(x, attention_mask, f"encoder.layer.{layer}")
        if self._config.classifier is None:
            self._embedding(x, mask, lengths)
        else:
            self._scores(x, self._config.classifier)
        return graph.save({"": OPSET})

    def _embedding(self, x: str, mask: str, lengths: str) -> None:
        pooled = self._pool(x, mask, lengths)
        if self._config.normalize:
            pooled = self._graph.node("LpNormalization", [pooled], axis=-1, p=2)
        self._graph.node("Identity", [pooled], [EMBEDDING])
        self._graph.output(EMBEDDING, TensorProto.FLOAT, ["rows", self._config.hidden])

    def _scores(self, x: str, head: ClassifierHead) -> None:
        first = self._graph.node("Gather", [x, self._int("zero", 0)], axis=1)
        dense = self._linear(first, "head.dense")
        hidden = self._graph.node(
            "Relu" if self._config.family == "distilbert" else "Tanh", [dense]
        )
        logits = self._linear(hidden, "head.out")
        self._graph.node(_ACTIVATIONS[head.activation], [logits], [SCORES])
        self._graph.output(SCORES, TensorProto.FLOAT, ["rows", len(head.labels)])

    def _positions_and_mask(self, ids: str, lengths: str) -> tuple[str, str]:
        """[tokens] counting from 0, and [rows, tokens] true where a row has a token."""
        tokens = self._graph.node("Squeeze", [self._graph.node("Shape", [ids], start=1)])
        positions = self._graph.node("Range", [self._int("zero", 0), tokens, self._int("one", 1)])
        column = self._graph.node("Unsqueeze", [lengths, self._int("axis_1", [1])])
        return positions, self._graph.node("Less", [positions, column])

    def _attention_mask(self, mask: str, ids: str) -> str:
        """[rows, 1, tokens, tokens]: the engine insists on the second `tokens`."""
        keys = self._graph.node("Unsqueeze", [mask, self._int("axes_1_2", [1, 2])])
        rows = self._graph.node("Shape", [ids], end=1)
        tokens = self._graph.node("Shape", [ids], start=1)
        one = self._int("one_axis", [1])
        shape = self._graph.node("Concat", [rows, one, tokens, tokens], axis=0)
        return self._graph.node("Expand", [keys, shape])

    def _embed(self, ids: str, positions: str) -> str:
        words = self._constant("embeddings.word_embeddings.weight")
        place = self._weights["embeddings.position_embeddings.weight"]
        place = place[self._config.position_offset :]
        if self._config.family != "distilbert":
            # Every token is of type 0, so its vector is part of the position's.
            place = place + self._weights["embeddings.token_type_embeddings.weight"][0]
        table = self._graph.constant("position_embeddings", place)
        word = self._graph.node("Gather", [words, ids])
        position = self._graph.node("Gather", [table, positions])
        return self._normalize(self._graph.node("Add", [word, position]), "embeddings.LayerNorm")

    def _layer(self, x: str, mask: str, name: str) -> str:
        attended = self._attend(x, mask, f"{name}.attention.self")
        projected = self._linear(attended, f"{name}.attention.output.dense")
        x = self._add_and_normalize(x, projected, f"{name}.attention.output.LayerNorm")
        inner = self._graph.node(
            "Gelu",
            [self._linear(x, f"{name}.intermediate.dense")],
            approximate=self._config.gelu_approximation,
        )
        outer = self._linear(inner, f"{name}.output.dense")
        return self._add_and_normalize(x, outer, f"{name}.output.LayerNorm")

    def _attend(self, x: str, mask: str, name: str) -> str:
        parts = ("query", "key", "value")
        weight = np.concatenate([self._weights[f"{name}.{p}.weight"] for p in parts])
        bias = np.concatenate([self._weights[f"{name}.{p}.bias"] for p in parts])
        joined = self._affine(x, f"{name}.qkv", weight, bias)
        qkv = [f"{name}.{part}" for part in parts]
        self._graph.node("Split", [joined], qkv, axis=-1, num_outputs=3)
        heads = self._config.heads
        return self._graph.node("Attention", [*qkv, mask], q_num_heads=heads, kv_num_heads=heads)

    def _pool(self, x: str, mask: str, lengths: str) -> str:
        if self._config.pooling == "cls":
            return self._graph.node("Gather", [x, self._int("zero", 0)], axis=1)
        # A product with 0 and 1, not ReduceSum: that one adds in another order for a batch of one.
        kept = self._graph.node("Cast", [mask], to=TensorProto.FLOAT)
        row = self._graph.node("Unsqueeze", [kept, self._int("axis_1", [1])])
        total = self._graph.node("MatMul", [row, x])
        count = self._graph.node("Cast", [lengths], to=TensorProto.FLOAT)
        divisor = self._graph.node("Unsqueeze", [count, self._int("axis_1", [1])])
        squeezed = self._graph.node("Squeeze", [total, self._int("axis_1", [1])])
        return self._graph.node("Div", [squeezed, divisor])

    def _linear(self, x: str, name: str) -> str:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return self._affine(x, name, weight, bias)

    def _affine(
        self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> str:
        product = self._graph.node("MatMul", [x, self._graph.constant(f"{name}.w", weight.T)])
        return self._graph.node("Add", [product, self._graph.constant(f"{name}.b", bias)])

    def _add_and_normalize(self, x: str, y: str, name: str) -> str:
        return self._normalize(self._graph.node("Add", [x, y]), name)

    def _normalize(self, x: str, name: str) -> str:
        scale, bias = self._constant(f"{name}.weight"), self._constant(f"{name}.bias")
        return self._graph.node(
            "LayerNormalization", [x, scale, bias], axis=-1, epsilon=self._config.epsilon
        )

    def _constant(self, name: str) -> str:
        return self._graph.constant(name, self._weights[name])

    def _int(self, name: str, values: int | list[int]) -> str:
        return self._graph.constant(name, np.array(values, np.int64))
