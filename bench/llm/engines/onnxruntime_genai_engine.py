"""onnxruntime-genai: its generator over a batch of prompts of one length, greedy."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime_genai
from exchange import CONTEXT_TOKENS, DECODE_TOKENS, PROMPT_TOKENS, answer, prompt, timed


class OnnxRuntimeGenai:
    """A folder that its model builder has made; it computes with a thread per core."""

    def __init__(self, folder: Path) -> None:
        self._model = onnxruntime_genai.Model(str(folder))

    def decode(self, streams: int) -> float:
        """All streams have prompts of the same length: it takes no others together."""
        generator = self._generator(streams)
        generator.append_tokens(np.array([prompt(PROMPT_TOKENS) for _ in range(streams)], np.int32))
        generator.generate_next_token()

        def steps() -> None:
            for _ in range(DECODE_TOKENS):
                generator.generate_next_token()

        return timed(streams * DECODE_TOKENS, steps)

    def prefill(self, tokens: int) -> float:
        """To the first token."""
        generator = self._generator(1)
        ids = np.array([prompt(tokens)], np.int32)

        def first_token() -> None:
            generator.append_tokens(ids)
            generator.generate_next_token()

        return timed(tokens, first_token)

    def _generator(self, streams: int) -> onnxruntime_genai.Generator:
        parameters = onnxruntime_genai.GeneratorParams(self._model)
        length = CONTEXT_TOKENS
        parameters.set_search_options(
            batch_size=streams, max_length=length, min_length=length, do_sample=False
        )
        return onnxruntime_genai.Generator(self._model, parameters)


if __name__ == "__main__":
    name = f"onnxruntime-genai {onnxruntime_genai.__version__}"
    answer(lambda: OnnxRuntimeGenai(Path(sys.argv[1])), name)
