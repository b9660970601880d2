"""A BERT sentence encoder that is loaded: texts to tokens, tokens to vectors; blocking.

Loading takes the graph from the cache or writes it from the artefact's weights. A row is padded to
a width that follows from its own length, so its vector is the same to the last bit in any company.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from mesh.errors import FailedPrecondition
from services.inference.backends.backend import BackendSettings
from services.inference.encoders import bert_graph
from services.inference.encoders.bert_config import BertConfig, read_bert_config
from services.inference.encoders.bert_graph import build_bert_graph
from services.inference.graph import session
from services.inference.graph.compiled_folder import compiled_folder
from services.inference.graph.session import GraphSession
from services.inference.graph.writer import GRAPH_FILE, WEIGHTS_FILE

_WEIGHTS = "model.safetensors"
_TOKENIZER = "tokenizer.json"

TokenIds = tuple[int, ...]
Vector = NDArray[np.float32]


class BertEncoder:
    """The encoder of one folder."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        graph: GraphSession,
        *,
        dimensions: int,
        max_tokens: int,
        memory_bytes: int,
    ) -> None:
        self.dimensions = dimensions
        self.max_tokens = max_tokens
        self.memory_bytes = memory_bytes
        self._graph = graph
        self._tokenizer = tokenizer

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids with the special ones, cut to the encoder's length."""
        return [tuple(each.ids) for each in self._tokenizer.encode_batch_fast(list(texts))]

    def encode(self, rows: Sequence[TokenIds], width: int) -> list[Vector]:
        """A vector per row; no row is longer than `width`."""
        ids = np.zeros((len(rows), width), np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
        lengths = np.array([len(row) for row in rows], np.int64)
        inputs = {"input_ids": ids, "lengths": lengths}
        (vectors,) = self._graph.run(["embedding"], inputs)
        return list(vectors)


def load_bert_encoder(
    folder: Path,
    *,
    model: str,
    digest: str,
    max_tokens: int,
    cache_dir: Path,
    settings: BackendSettings,
) -> BertEncoder:
    """Loads the encoder in `folder`; the first time on this machine takes a moment more.

    Raises:
        FailedPrecondition: the artefact is not an encoder that this node can run.
    """
    config = read_bert_config(folder)
    max_tokens = min(max_tokens, config.max_tokens)
    tokenizer = _load_tokenizer(folder / _TOKENIZER, max_tokens)
    compiled = compiled_folder(
        cache_dir,
        model,
        ("bert", digest, bert_graph.GRAPH_VERSION, session.VERSION),
        lambda place: _build(folder, config, place),
    )
    graph = GraphSession(compiled / GRAPH_FILE, settings)
    return BertEncoder(
        tokenizer,
        graph,
        dimensions=config.hidden,
        max_tokens=max_tokens,
        memory_bytes=(compiled / WEIGHTS_FILE).stat().st_size,
    )


def padded_width(tokens: int, longest: int) -> int:
    """The width that a row of so many tokens is padded to: steps of an eighth or so."""
    step = 8 if tokens <= 64 else 16 if tokens <= 128 else 32  # noqa: PLR2004 - what it says
    return min(-(-tokens // step) * step, longest)


def _build(folder: Path, config: BertConfig, place: Path) -> None:
    try:
        weights = load_file(folder / _WEIGHTS)
    except FileNotFoundError:
        raise FailedPrecondition(f"the artefact has no {_WEIGHTS}") from None
    except SafetensorError as error:
        raise FailedPrecondition(f"{_WEIGHTS} cannot be read: {error}") from error
    build_bert_graph(weights, config, place)


def _load_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    if not path.exists():
        raise FailedPrecondition(f"the artefact has no {path.name}")
    tokenizer = Tokenizer.from_file(str(path))
    # The file's own settings are those of its training; padding is ours to do.
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer
