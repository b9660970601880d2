"""A decoder as any backend can take it: what it is, and where its weights come from.

Each backend makes of it what it runs (a graph, an engine, tensors on a device) and keeps that in
`cache_dir` if it is dear to make; opening the weights takes seconds and is left to whoever needs
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.weights import Precision, WeightSource


@dataclass(frozen=True, slots=True)
class Decoder:
    """One decoder of one model version; `digest` is the artefact's, so that it names content."""

    model: str
    digest: str
    config: LlamaConfig
    context_tokens: int
    precision: Precision
    cache_dir: Path
    open_weights: Callable[[], WeightSource]
    compute: str = "auto"
    """The manifest's `precision`: what a backend with a choice computes in."""
