"""Our decoder without scheduler and gRPC: its graph, its slots and a loop, greedy."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import onnxruntime
from bare_loop import decode_rate, prefill
from exchange import CONTEXT_TOKENS, DECODE_TOKENS, THREADS, answer, timed

from services.inference.backends.backend import BackendSettings
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.llm.decoder import Decoder
from services.inference.llm.model_files import open_model_files

STREAMS = 16


class Bare:
    """Sixteen slots."""

    def __init__(self, gguf: Path, cache_dir: Path, weights: str) -> None:
        decoder = Decoder(
            model="smollm2",
            digest="0" * 64,
            config=open_model_files(gguf.parent).config,
            context_tokens=CONTEXT_TOKENS,
            precision=weights,
            cache_dir=cache_dir,
            open_weights=partial(open_model_files, gguf.parent),
        )
        settings = BackendSettings(threads=THREADS, spin=True)
        self._slots = OnnxRuntimeBackend(settings).open_slots(decoder, STREAMS)

    def decode(self, streams: int) -> float:
        """After a prompt per slot."""
        return decode_rate(self._slots, streams, DECODE_TOKENS)

    def prefill(self, tokens: int) -> float:
        """To the first token."""
        return timed(tokens, lambda: prefill(self._slots, 0, tokens))


if __name__ == "__main__":
    model, cache, form = sys.argv[1:]
    version = f"onnxruntime {onnxruntime.__version__}"
    answer(lambda: Bare(Path(model), Path(cache), form), version)
