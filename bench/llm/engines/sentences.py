"""What encoders are asked, and how long they take: the same sentences for all of them.

Of 128 tokens each, or of mixed lengths; as texts and as ids. Beside them lie the vectors of the
mixed ones as the plain graph gives them in float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from exchange import timed
from numpy.typing import NDArray

Array = NDArray[np.float32]
AT_LEAST = 64
"""Sentences behind one figure."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text and its tokens."""

    text: str
    ids: list[int]


Encode = Callable[[Sequence[Sentence]], Array]


class Encoder:
    """An encoder under measurement, asked for one batch after the other."""

    def __init__(self, folder: Path, encode: Encode) -> None:
        stored = json.loads((folder / "sentences.json").read_text())
        self._equal = [Sentence(**each) for each in stored["equal"]]
        self._mixed = [Sentence(**each) for each in stored["mixed"]]
        self._expected = np.load(folder / "vectors.npy")
        self._encode = encode

    def equal(self, rows: int) -> float:
        """Sentences of 128 tokens per second."""
        return self._rate(self._equal, rows)

    def mixed(self, rows: int) -> float:
        """Sentences of 6 to 128 tokens per second."""
        return self._rate(self._mixed, rows)

    def distance(self, rows: int) -> float:
        """The largest to an expected vector; all of them have length 1."""
        vectors = self._encode(self._mixed[:rows])
        return float(np.linalg.norm(vectors - self._expected[:rows], axis=1).max())

    def _rate(self, sentences: Sequence[Sentence], rows: int) -> float:
        batches = [sentences[at : at + rows] for at in range(0, len(sentences), rows)]
        times = -(-AT_LEAST // len(sentences))

        def work() -> None:
            for batch in batches * times:
                self._encode(batch)

        return timed(times * len(sentences), work)


def padded(ids: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
    """The plain graph's inputs: a batch as wide as its longest row, and where it has tokens."""
    shape = len(ids), max(map(len, ids))
    inputs = {name: np.zeros(shape, np.int64) for name in ("input_ids", "attention_mask")}
    for place, row in enumerate(ids):
        inputs["input_ids"][place, : len(row)] = row
        inputs["attention_mask"][place, : len(row)] = 1
    return inputs
