"""Decoder graphs on disk: made once per machine from the weights, then only loaded.

A graph depends on the artefact, the target, the precision, the context and the versions of builder
and runtime; how such a folder is made once and found again is the business of `compiled_folder`.
"""

from __future__ import annotations

from pathlib import Path

from services.inference.graph import session
from services.inference.graph.compiled_folder import compiled_folder
from services.inference.graph.writer import GRAPH_FILE
from services.inference.llm import decoder_graph
from services.inference.llm.decoder import Decoder
from services.inference.llm.decoder_graph import build_decoder_graph

_TARGET = "ort"


def compiled_decoder(decoder: Decoder) -> Path:
    """The decoder's graph for ONNX Runtime, built now if this machine has not got it yet."""

    def build(unfinished: Path) -> None:
        build_decoder_graph(
            decoder.open_weights(),
            decoder.config,
            context_tokens=decoder.context_tokens,
            precision=decoder.precision,
            folder=unfinished,
        )

    return compiled_folder(decoder.cache_dir, decoder.model, _parts(decoder), build) / GRAPH_FILE


def _parts(decoder: Decoder) -> tuple[str | int, ...]:
    """All that the graph's content depends on."""
    return (
        decoder.digest,
        _TARGET,
        decoder.precision,
        decoder.context_tokens,
        decoder_graph.GRAPH_VERSION,
        session.VERSION,
    )
