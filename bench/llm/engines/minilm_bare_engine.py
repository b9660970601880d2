"""Our encoder without batcher and gRPC: ids in, in the batches that the node forms of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import onnxruntime
from exchange import THREADS, answer
from sentences import Array, Encoder, Sentence

from mesh.deployment import VersionSpec
from mesh.manifest import Manifest
from services.inference.backends.backend import BackendSettings
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.encoders.bert_encoder import load_bert_encoder, padded_width
from services.inference.encoders.sentence_config import read_sentence_config
from services.inference.encoders.text_model import BATCH_TOKENS

MAX_TOKENS = 128


class Bare:
    """The encoder of a folder."""

    def __init__(self, folder: Path, cache_dir: Path) -> None:
        manifest = Manifest(name="minilm", task="text-embedding", format="sentence-transformers")
        self._encoder = load_bert_encoder(
            folder,
            read_sentence_config(folder),
            VersionSpec(version=1, digest="0" * 64, manifest=manifest, files=()),
            max_tokens=MAX_TOKENS,
            cache_dir=cache_dir,
            backends=[OnnxRuntimeBackend(BackendSettings(threads=THREADS, spin=True))],
        )

    def encode(self, batch: Sequence[Sentence]) -> Array:
        """Rows of one width together, and so many tokens at most."""
        vectors = np.empty((len(batch), self._encoder.dimensions), np.float32)
        widths = [padded_width(len(each.ids), MAX_TOKENS) for each in batch]
        for width, places in _alike(widths):
            rows = [tuple(batch[place].ids) for place in places]
            vectors[places] = self._encoder.encode(rows, width)
        return vectors


def _alike(widths: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    ordered = sorted(range(len(widths)), key=widths.__getitem__)
    for width, group in groupby(ordered, key=widths.__getitem__):
        places = list(group)
        most = BATCH_TOKENS // width
        for start in range(0, len(places), most):
            yield width, places[start : start + most]


if __name__ == "__main__":
    model, work, cache = sys.argv[1:]
    version = f"onnxruntime {onnxruntime.__version__}"
    answer(lambda: Encoder(Path(work), Bare(Path(model), Path(cache)).encode), version)
