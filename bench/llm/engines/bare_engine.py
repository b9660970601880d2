"""Our decoder without scheduler and gRPC: its graph, its slots and a loop, greedy."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import onnxruntime
from exchange import CONTEXT_TOKENS, DECODE_TOKENS, PROMPT_TOKENS, THREADS, answer, prompt, timed

from services.inference.backends.backend import BackendSettings
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.llm.decoder import Decoder
from services.inference.llm.model_files import open_model_files

STREAMS = 16
CHUNK_TOKENS = 128
"""As the node cuts prompts."""


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
        """After a prompt per slot; each is a token ahead of the next, as behind the scheduler."""
        last = [self._prefill(slot, PROMPT_TOKENS) for slot in range(streams)]
        held = range(PROMPT_TOKENS + streams - 1, PROMPT_TOKENS - 1, -1)

        def steps() -> None:
            tokens = last
            for step in range(DECODE_TOKENS):
                logits = self._slots.decode(tokens, [each + step for each in held])
                tokens = [int(row.argmax()) for row in logits]

        return timed(streams * DECODE_TOKENS, steps)

    def prefill(self, tokens: int) -> float:
        """To the first token."""
        return timed(tokens, lambda: self._prefill(0, tokens))

    def _prefill(self, slot: int, tokens: int) -> int:
        ids = prompt(tokens)
        for start in range(0, tokens, CHUNK_TOKENS):
            logits = self._slots.prefill(slot, ids[start : start + CHUNK_TOKENS], start)
        return int(logits.argmax())


if __name__ == "__main__":
    model, cache, form = sys.argv[1:]
    version = f"onnxruntime {onnxruntime.__version__}"
    answer(lambda: Bare(Path(model), Path(cache), form), version)
