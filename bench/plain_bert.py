"""A BERT sentence encoder as exporters write it: one ONNX node for each operation of the model.

What somebody without this project would give to a runtime, and so what the peers are measured on:
ids and a mask in, opset 17, three projections, attention and Gelu spelt out. Pooling and the length
of 1 are inside, as in the node's own graph, so that all do the same work.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from onnx import TensorProto

from services.inference.encoders.bert_config import BertConfig
from services.inference.encoders.bert_weights import Weights
from services.inference.graph.writer import GraphWriter

OPSET = 17  # what exporters choose, and the first with LayerNormalization


def write_plain_bert(weights: Weights, config: BertConfig, folder: Path) -> Path:
    """Writes the graph and its weights into `folder`; returns the graph's path."""
    return _Plain(weights, config, GraphWriter("plain-bert", folder)).write()


class _Plain:
    def __init__(self, weights: Weights, config: BertConfig, graph: GraphWriter) -> None:
        self._weights = weights
        self._config = config
        self._graph = graph
        self._node = graph.node

    def write(self) -> Path:
        ids = self._graph.input("input_ids", TensorProto.INT64, ["rows", "tokens"])
        mask = self._graph.input("attention_mask", TensorProto.INT64, ["rows", "tokens"])
        x = self._embed(ids)
        bias = self._mask_bias(mask)
        for layer in range(self._config.layers):
            x = self._layer(x, bias, f"encoder.layer.{layer}")
        self._pool(x, mask)
        self._graph.output("embedding", TensorProto.FLOAT, ["rows", self._config.hidden])
        return self._graph.save({"": OPSET})

    def _embed(self, ids: str) -> str:
        table = self._constant("embeddings.position_embeddings.weight")
        tokens = self._node("Shape", [ids], start=1, end=2)
        position = self._node("Slice", [table, self._ints("start", 0), tokens])
        word = self._node("Gather", [self._constant("embeddings.word_embeddings.weight"), ids])
        kind = self._weights["embeddings.token_type_embeddings.weight"][0]
        typed = self._node("Add", [word, self._graph.constant("type_0", kind)])
        return self._normalize(self._node("Add", [typed, position]), "embeddings.LayerNorm")

    def _mask_bias(self, mask: str) -> str:
        keys = self._node("Unsqueeze", [mask, self._ints("axes_1_2", 1, 2)])
        kept = self._node("Cast", [keys], to=TensorProto.FLOAT)
        left_out = self._node("Sub", [self._float("one", 1), kept])
        lowest = self._float("lowest", float(np.finfo(np.float32).min))
        return self._node("Mul", [left_out, lowest])

    def _layer(self, x: str, bias: str, name: str) -> str:
        attended = self._attend(x, bias, f"{name}.attention.self")
        projected = self._linear(attended, f"{name}.attention.output.dense")
        x = self._normalize(self._node("Add", [projected, x]), f"{name}.attention.output.LayerNorm")
        inner = self._gelu(self._linear(x, f"{name}.intermediate.dense"))
        outer = self._linear(inner, f"{name}.output.dense")
        return self._normalize(self._node("Add", [outer, x]), f"{name}.output.LayerNorm")

    def _attend(self, x: str, bias: str, name: str) -> str:
        heads, hidden = self._config.heads, self._config.hidden
        query = self._heads(x, f"{name}.query", [0, 2, 1, 3])
        key = self._heads(x, f"{name}.key", [0, 2, 3, 1])
        value = self._heads(x, f"{name}.value", [0, 2, 1, 3])
        product = self._node("MatMul", [query, key])
        scale = self._float("scale", math.sqrt(hidden // heads))
        scores = self._node("Add", [self._node("Div", [product, scale]), bias])
        mixed = self._node("MatMul", [self._node("Softmax", [scores], axis=-1), value])
        rows = self._node("Transpose", [mixed], perm=[0, 2, 1, 3])
        return self._node("Reshape", [rows, self._ints("joined", 0, 0, hidden)])

    def _heads(self, x: str, name: str, order: list[int]) -> str:
        heads = self._config.heads
        shape = self._ints("split", 0, 0, heads, self._config.hidden // heads)
        split = self._node("Reshape", [self._linear(x, name), shape])
        return self._node("Transpose", [split], perm=order)

    def _gelu(self, x: str) -> str:
        curve = self._node("Erf", [self._node("Div", [x, self._float("sqrt_2", math.sqrt(2))])])
        raised = self._node("Add", [curve, self._float("one", 1)])
        return self._node("Mul", [self._node("Mul", [x, raised]), self._float("half", 0.5)])

    def _pool(self, x: str, mask: str) -> None:
        column = self._node("Unsqueeze", [mask, self._ints("axis_2", 2)])
        kept = self._node("Cast", [column], to=TensorProto.FLOAT)
        tokens = self._ints("axis_1", 1)
        total = self._node("ReduceSum", [self._node("Mul", [x, kept]), tokens], keepdims=0)
        count = self._node("ReduceSum", [kept, tokens], keepdims=0)
        mean = self._node("Div", [total, count])
        length = self._node("ReduceL2", [mean], axes=[1], keepdims=1)
        self._node("Div", [mean, length], ["embedding"])

    def _linear(self, x: str, name: str) -> str:
        weight = self._graph.constant(f"{name}.w", self._weights[f"{name}.weight"].T)
        return self._node(
            "Add", [self._node("MatMul", [x, weight]), self._constant(f"{name}.bias")]
        )

    def _normalize(self, x: str, name: str) -> str:
        parts = [x, self._constant(f"{name}.weight"), self._constant(f"{name}.bias")]
        return self._node("LayerNormalization", parts, axis=-1, epsilon=self._config.epsilon)

    def _constant(self, name: str) -> str:
        return self._graph.constant(name, self._weights[name])

    def _ints(self, name: str, *values: int) -> str:
        return self._graph.constant(name, np.array(values, np.int64))

    def _float(self, name: str, value: float) -> str:
        return self._graph.constant(name, np.array(value, np.float32))
