"""An encoder of the BERT family that is loaded: texts to tokens, tokens to vectors; blocking.

Loading takes the graph from the cache or writes it from the artefact's weights. A row is padded to
a width that follows from its own length, so its vector is the same to the last bit in any company.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mesh.deployment import VersionSpec
from mesh.errors import FailedPrecondition
from services.inference.backends.backend import Backend, Graph, GraphRunner
from services.inference.backends.choice import Opening, open_first
from services.inference.backends.instance_group import InstanceGroup, open_instances
from services.inference.batching.run import Ran, Run
from services.inference.encoders import bert_graph
from services.inference.encoders.bert_config import BertConfig
from services.inference.encoders.bert_graph import build_bert_graph
from services.inference.encoders.bert_source import BertSource
from services.inference.encoders.bert_weights import load_bert_weights
from services.inference.graph import session
from services.inference.graph.compiled_folder import compiled_folder
from services.inference.graph.writer import GRAPH_FILE

_TOKENIZER = "tokenizer.json"

TokenIds = tuple[int, ...]
Vector = NDArray[np.float32]


class BertEncoder:
    """The encoder of one folder."""

    def __init__(
        self, tokenizer: Tokenizer, graph: InstanceGroup, *, max_tokens: int, opening: Opening
    ) -> None:
        (output,) = graph.outputs
        self.dimensions = output.shape[-1]
        self.max_tokens = max_tokens
        self.memory_bytes = graph.memory_bytes
        self.opening = opening
        self._output = output.name
        self._instances = graph
        self._tokenizer = tokenizer

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids with the special ones, cut to the encoder's length."""
        return [tuple(each.ids) for each in self._tokenizer.encode_batch_fast(list(texts))]

    @property
    def runs(self) -> list[Run[TokenIds, Vector]]:
        """`encode` on each of the instances, for the batcher."""
        return [partial(self._run_on, runner) for runner in self._instances.runners]

    def encode(self, rows: Sequence[TokenIds], width: int) -> Sequence[Vector]:
        """A vector per row; no row is longer than `width`."""
        return self._run_on(self._instances.runners[0], rows, width).results

    def close(self) -> None:
        """Frees the engine's memory."""
        self._instances.close()

    def _run_on(self, runner: GraphRunner, rows: Sequence[TokenIds], width: int) -> Ran[Vector]:
        began_ns = time.perf_counter_ns()
        ids = np.zeros((len(rows), width), np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
        lengths = np.array([len(row) for row in rows], np.int64)
        input_ns = time.perf_counter_ns() - began_ns
        (vectors,) = runner.run([self._output], {"input_ids": ids, "lengths": lengths})
        return Ran(list(vectors), input_ns=input_ns)


def load_bert_encoder(
    folder: Path,
    config: BertConfig,
    spec: VersionSpec,
    *,
    max_tokens: int,
    cache_dir: Path,
    backends: Sequence[Backend],
) -> BertEncoder:
    """Loads the encoder in `folder`; the first time on this machine takes a moment more.

    Raises:
        FailedPrecondition: the artefact is not an encoder that this node can run.
    """
    max_tokens = min(max_tokens, config.max_tokens)
    tokenizer = _load_tokenizer(folder / _TOKENIZER, max_tokens)
    graph = _graph(
        BertSource(config, lambda: load_bert_weights(folder, config.family)), spec, cache_dir
    )
    instances, opening = open_first(
        spec.manifest.backend,
        backends,
        lambda backend: open_instances(lambda: backend.open_graph(graph), spec.manifest.instances),
    )
    return BertEncoder(tokenizer, instances, max_tokens=max_tokens, opening=opening)


def padded_width(tokens: int, longest: int) -> int:
    """The width that a row of so many tokens is padded to: steps of an eighth or so."""
    step = 8 if tokens <= 64 else 16 if tokens <= 128 else 32  # noqa: PLR2004 - what it says
    return min(-(-tokens // step) * step, longest)


def _graph(source: BertSource, spec: VersionSpec, cache_dir: Path) -> Graph:
    """The encoder as backends take it; its ONNX form is written once per machine."""

    def build(place: Path) -> None:
        build_bert_graph(source.load_weights(), source.config, place)

    def onnx() -> Path:
        parts = ("bert", spec.digest, bert_graph.GRAPH_VERSION, session.VERSION)
        return compiled_folder(cache_dir, spec.manifest.name, parts, build) / GRAPH_FILE

    return Graph(
        model=spec.manifest.name,
        digest=spec.digest,
        onnx=onnx,
        cache_dir=cache_dir,
        encoder=source,
        compute=spec.manifest.precision,
        has_rows=True,
    )


def _load_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    if not path.exists():
        raise FailedPrecondition(f"the artefact has no {path.name}")
    tokenizer = Tokenizer.from_file(str(path))
    # The file's own settings are those of its training; padding is ours to do.
    tokenizer.no_padding()
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    if max_tokens <= special:  # truncation would be off, silently
        raise FailedPrecondition(
            f"max_tokens: {max_tokens} leave no room for a text beside its {special} special tokens"
        )
    tokenizer.enable_truncation(max_tokens)
    return tokenizer
