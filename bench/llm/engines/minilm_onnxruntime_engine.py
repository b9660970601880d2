"""ONNX Runtime on the plain graph, as it comes: from ids, or from texts with `tokenizers`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
from exchange import THREADS, answer
from sentences import Array, Encoder, Sentence, padded
from tokenizers import Tokenizer


class OnnxRuntime:
    """A graph in a session, whose threads spin unless told otherwise."""

    def __init__(self, graph: Path, tokenizer: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self._session = onnxruntime.InferenceSession(str(graph), options)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()

    def ids(self, batch: Sequence[Sentence]) -> Array:
        """Without making tokens."""
        return self._run([each.ids for each in batch])

    def texts(self, batch: Sequence[Sentence]) -> Array:
        """Making tokens first."""
        encodings = self._tokenizer.encode_batch_fast([each.text for each in batch])
        return self._run([encoding.ids for encoding in encodings])

    def _run(self, ids: Sequence[Sequence[int]]) -> Array:
        vectors: Array
        (vectors,) = self._session.run(None, padded(ids))
        return vectors


def open_encoder(model: Path, work: Path, what: str) -> Encoder:
    """From `ids` or `texts`."""
    engine = OnnxRuntime(work / "graph.onnx", model / "tokenizer.json")
    return Encoder(work, getattr(engine, what))


if __name__ == "__main__":
    folder, place, source = sys.argv[1:]
    version = f"onnxruntime {onnxruntime.__version__}"
    answer(lambda: open_encoder(Path(folder), Path(place), source), version)
