"""What a language model's files say beside its weights; kept, for reading it takes seconds.

The folder of a description depends on the artefact alone. It serves every backend, precision and
context, and a node that has it need not open the model's files to start what is compiled already.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from services.inference.graph.compiled_folder import compiled_folder
from services.inference.llm.architecture import LlamaConfig, SamplingDefaults, TextRules
from services.inference.llm.model_files import open_model_files

VERSION = 1
"""Raised with every change to what is written here, or to how files are read."""

_TOKENIZER_FILE = "tokenizer.json"
_DESCRIPTION_FILE = "model.json"


@dataclass(frozen=True, slots=True)
class Description:
    """A language model without its weights."""

    config: LlamaConfig
    rules: TextRules
    tokenizer: Tokenizer


def describe(folder: Path, *, model: str, digest: str, cache_dir: Path) -> Description:
    """The description of the model in `folder`, read now if this machine has not got it yet."""

    def build(unfinished: Path) -> None:
        _build(folder, unfinished)

    # Of another name than the compiled forms: many of those must not push this one out.
    parts = ("description", digest, VERSION)
    return _load(compiled_folder(cache_dir, f"{model}/description", parts, build))


def _build(folder: Path, unfinished: Path) -> None:
    files = open_model_files(folder)
    files.tokenizer().save(str(unfinished / _TOKENIZER_FILE), pretty=False)
    rules = files.text_rules
    description = {
        "config": asdict(files.config),
        "rules": {**asdict(rules), "end_ids": sorted(rules.end_ids)},
    }
    (unfinished / _DESCRIPTION_FILE).write_text(json.dumps(description))


def _load(place: Path) -> Description:
    description: dict[str, Any] = json.loads((place / _DESCRIPTION_FILE).read_text())
    rules = description["rules"]
    return Description(
        config=LlamaConfig(**description["config"]),
        rules=TextRules(
            **{
                **rules,
                "end_ids": frozenset(rules["end_ids"]),
                "sampling": SamplingDefaults(**rules["sampling"]),
            }
        ),
        tokenizer=Tokenizer.from_file(str(place / _TOKENIZER_FILE)),
    )
