"""openvino-genai: its continuous batching pipeline on a GGUF file, without its prefix cache."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import openvino
import openvino_genai
from exchange import DECODE_TOKENS, PROMPT_TOKENS, THREADS, answer, prompt, timed


class OpenVino:
    """A GGUF file in a pipeline."""

    def __init__(self, gguf: Path) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.enable_prefix_caching = False
        properties = {"INFERENCE_NUM_THREADS": THREADS}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(gguf), scheduler, "CPU", properties
        )
        self._numbers = itertools.count()

    def decode(self, streams: int) -> float:
        """From the step after which every stream has its first token, to the last."""
        handles = [self._add(PROMPT_TOKENS, DECODE_TOKENS + 2) for _ in range(streams)]
        had = [0] * streams
        while min(had) == 0:
            self._step(handles, had)
        before = sum(had)
        rate = timed(1, lambda: self._finish(handles, had))
        return rate * (sum(had) - before)

    def prefill(self, tokens: int) -> float:
        """To the first token."""
        handle = self._add(tokens, 1)
        return timed(tokens, lambda: self._finish([handle], [0]))

    def _add(self, tokens: int, limit: int) -> openvino_genai.GenerationHandle:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = limit, True, False
        ids = openvino.Tensor(np.array([prompt(tokens)], np.int64))
        return self._pipeline.add_request(next(self._numbers), ids, config)

    def _finish(self, handles: list[openvino_genai.GenerationHandle], had: list[int]) -> None:
        while self._pipeline.has_non_finished_requests():
            self._step(handles, had)

    def _step(self, handles: list[openvino_genai.GenerationHandle], had: list[int]) -> None:
        self._pipeline.step()
        for place, handle in enumerate(handles):
            while handle.can_read():
                had[place] += sum(len(part.generated_ids) for part in handle.read().values())


if __name__ == "__main__":
    name = f"openvino-genai {openvino_genai.__version__.split('-')[0]}"
    answer(lambda: OpenVino(Path(sys.argv[1])), name)
