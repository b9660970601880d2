"""Compiled models on disk: what a node needs to start a decoder, made once per machine.

A compiled model is a folder with the graph, its weights, the tokenizer and a description. It
depends on the artefact, the target, the precision, the context and the versions of builder and
runtime; how such a folder is made once and found again is the business of `compiled_folder`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mesh.errors import FailedPrecondition
from services.inference.graph import session
from services.inference.graph.compiled_folder import compiled_folder, folder_key
from services.inference.graph.writer import GRAPH_FILE
from services.inference.llm import decoder_graph
from services.inference.llm.architecture import LlamaConfig, SamplingDefaults, TextRules
from services.inference.llm.decoder_graph import build_decoder_graph
from services.inference.llm.gguf_model import GgufModel
from services.inference.llm.vocabulary import tokenizer_from_gguf
from services.inference.llm.weights import Precision

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
    folder: Path,
    *,
    model: str,
    digest: str,
    max_context_tokens: int,
    precision: Precision,
    cache_dir: Path,
) -> CompiledModel:
    """The compiled form of the GGUF in `folder`, built now if this machine has not got it yet."""

    def build(unfinished: Path) -> None:
        _build(_gguf_in(folder), max_context_tokens, precision, unfinished)

    parts = _parts(digest, max_context_tokens, precision)
    return _load(compiled_folder(cache_dir, model, parts, build))


def cache_key(digest: str, max_context_tokens: int, precision: Precision) -> str:
    """The name of the compiled form: it changes with whatever could change the contents."""
    return folder_key(_parts(digest, max_context_tokens, precision))


def _parts(digest: str, max_context_tokens: int, precision: Precision) -> tuple[str | int, ...]:
    return (
        digest,
        _TARGET,
        precision,
        max_context_tokens,
        decoder_graph.GRAPH_VERSION,
        session.VERSION,
    )


def _gguf_in(folder: Path) -> Path:
    found = sorted(folder.glob("*.gguf"))
    if len(found) != 1:
        raise FailedPrecondition(f"the artefact must hold one .gguf file, not {len(found)}")
    return found[0]


def _build(gguf: Path, max_context_tokens: int, precision: Precision, unfinished: Path) -> None:
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


def _load(place: Path) -> CompiledModel:
    description: dict[str, Any] = json.loads((place / _DESCRIPTION_FILE).read_text())
    rules = description["rules"]
    return CompiledModel(
        graph=place / GRAPH_FILE,
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
