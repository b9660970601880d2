"""The files of a language model, open: one way to read each format that the node knows."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from mesh.errors import FailedPrecondition
from services.inference.llm.architecture import LlamaConfig, TextRules
from services.inference.llm.gguf_model import GgufModel
from services.inference.llm.transformers_config import CONFIG
from services.inference.llm.transformers_model import TransformersModel
from services.inference.llm.weights import WeightSource


class ModelFiles(WeightSource, Protocol):
    """An open model: its weights, and what it says of itself."""

    @property
    def config(self) -> LlamaConfig:
        """The decoder's dimensions."""

    @property
    def text_rules(self) -> TextRules:
        """Special tokens, chat template and sampling defaults."""

    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""


def open_model_files(folder: Path) -> ModelFiles:
    """Opens the model that lies in a folder.

    Raises:
        FailedPrecondition: there is none, or none that runs here; the message names what does.
    """
    found = sorted(folder.glob("*.gguf"))
    if not found and (folder / CONFIG).exists():
        return TransformersModel(folder)
    if len(found) != 1:
        raise FailedPrecondition(
            f"the artefact must hold one .gguf file, not {len(found)}, or a folder with {CONFIG}"
        )
    return GgufModel(found[0])
