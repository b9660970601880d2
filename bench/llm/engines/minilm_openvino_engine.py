"""OpenVINO Runtime on the plain graph, from ids; in a precision, or in the one that it chooses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import openvino
from exchange import THREADS, answer
from sentences import Array, Encoder, Sentence, padded


class OpenVino:
    """A compiled graph."""

    def __init__(self, graph: Path, precision: str) -> None:
        properties = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
        if precision != "default":
            properties["INFERENCE_PRECISION_HINT"] = precision
        self._compiled = openvino.Core().compile_model(str(graph), "CPU", properties)
        self.precision = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()

    def encode(self, batch: Sequence[Sentence]) -> Array:
        """In one request."""
        vectors: Array = self._compiled(padded([each.ids for each in batch]))[0]
        return vectors


if __name__ == "__main__":
    folder, form = sys.argv[1:]
    engine = OpenVino(Path(folder) / "graph.onnx", form)
    name = f"openvino {openvino.__version__.split('-')[0]} in {engine.precision}"
    answer(lambda: Encoder(Path(folder), engine.encode), name)
