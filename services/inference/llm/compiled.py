"""Compiled models on disk: what a node needs to start a decoder, made once per machine.

A compiled model is a folder with the graph, its weights, the tokenizer and a description. Its name
is a digest of all that it depends on: the artefact, the target, the precision, the context and the
versions of builder and runtime. It is built in a folder beside it and renamed when whole, under a
file lock, so that two nodes that start together build it once and a crash leaves nothing half made.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from tokenizers import Tokenizer

from mesh.errors import FailedPrecondition
from services.inference.llm import decoder_graph, graph_writer, onnxruntime_slots
from services.inference.llm.architecture import LlamaConfig, SamplingDefaults, TextRules
from services.inference.llm.decoder_graph import build_decoder_graph
from services.inference.llm.gguf_model import GgufModel
from services.inference.llm.vocabulary import tokenizer_from_gguf

if TYPE_CHECKING:
    from pathlib import Path

    from services.inference.llm.decoder_graph import Precision

_TOKENIZER_FILE = "tokenizer.json"
_DESCRIPTION_FILE = "model.json"
_TARGET = "ort"


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """A decoder ready to be loaded."""

    graph: Path
    config: LlamaConfig
    rules: TextRules
    context_tokens: int
    tokenizer: Tokenizer


def compiled_model(
    folder: Path, *, digest: str, max_context_tokens: int, precision: Precision, cache_dir: Path
) -> CompiledModel:
    """The compiled form of the GGUF in `folder`, built now if this machine has not got it yet."""
    key = cache_key(digest, max_context_tokens, precision)
    place = cache_dir / key
    if not place.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(cache_dir / f"{key}.lock"):
            if not place.exists():
                _build(_gguf_in(folder), max_context_tokens, precision, place)
    return _load(place)


def cache_key(digest: str, max_context_tokens: int, precision: Precision) -> str:
    """The name of the compiled form: it changes with whatever could change the contents."""
    parts = (
        digest,
        _TARGET,
        precision,
        max_context_tokens,
        decoder_graph.GRAPH_VERSION,
        onnxruntime_slots.VERSION,
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _gguf_in(folder: Path) -> Path:
    found = sorted(folder.glob("*.gguf"))
    if len(found) != 1:
        raise FailedPrecondition(f"the artefact must hold one .gguf file, not {len(found)}")
    return found[0]


def _build(gguf: Path, max_context_tokens: int, precision: Precision, place: Path) -> None:
    unfinished = place.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    model = GgufModel(gguf)
    context_tokens = min(max_context_tokens, model.config.trained_context_tokens)
    build_decoder_graph(
        model,
        model.config,
        context_tokens=context_tokens,
        precision=precision,
        folder=unfinished,
    )
    tokenizer_from_gguf(model).save(str(unfinished / _TOKENIZER_FILE), pretty=False)
    description = {
        "config": asdict(model.config),
        "rules": {**asdict(model.text_rules), "end_ids": sorted(model.text_rules.end_ids)},
        "context_tokens": context_tokens,
    }
    (unfinished / _DESCRIPTION_FILE).write_text(json.dumps(description))
    unfinished.rename(place)


def _load(place: Path) -> CompiledModel:
    description: dict[str, Any] = json.loads((place / _DESCRIPTION_FILE).read_text())
    rules = description["rules"]
    return CompiledModel(
        graph=place / graph_writer.GRAPH_FILE,
        config=LlamaConfig(**description["config"]),
        rules=TextRules(
            **{
                **rules,
                "end_ids": frozenset(rules["end_ids"]),
                "sampling": SamplingDefaults(**rules["sampling"]),
            }
        ),
        context_tokens=description["context_tokens"],
        tokenizer=Tokenizer.from_file(str(place / _TOKENIZER_FILE)),
    )
