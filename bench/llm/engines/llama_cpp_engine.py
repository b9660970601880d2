"""llama.cpp, by its C interface: one batch with a token of each sequence per step, greedy."""

from __future__ import annotations

import sys
from pathlib import Path

import llama_cpp
import numpy as np
from exchange import CONTEXT_TOKENS, DECODE_TOKENS, PROMPT_TOKENS, THREADS, answer, prompt, timed

STREAMS = 16


class LlamaCpp:
    """A GGUF file in a context for sixteen sequences."""

    def __init__(self, gguf: Path) -> None:
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = STREAMS * CONTEXT_TOKENS // 2
        parameters.n_batch = parameters.n_ubatch = CONTEXT_TOKENS
        parameters.n_seq_max = STREAMS
        parameters.n_threads = parameters.n_threads_batch = THREADS
        parameters.kv_unified = False
        self._model = llama_cpp.llama_model_load_from_file(
            str(gguf).encode(), llama_cpp.llama_model_default_params()
        )
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        self._batch = llama_cpp.llama_batch_init(CONTEXT_TOKENS, 0, 1)
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(vocabulary)

    def decode(self, streams: int) -> float:
        """After a prompt per sequence."""
        self._clear()
        last = [self._prefill(sequence, PROMPT_TOKENS) for sequence in range(streams)]

        def steps() -> None:
            tokens = last
            for step in range(DECODE_TOKENS):
                rows = [(t, PROMPT_TOKENS + step, s, True) for s, t in enumerate(tokens)]
                self._run(rows)
                tokens = [self._likeliest(row) for row in range(streams)]

        return timed(streams * DECODE_TOKENS, steps)

    def prefill(self, tokens: int) -> float:
        """In one batch."""
        self._clear()
        return timed(tokens, lambda: self._prefill(0, tokens))

    def _prefill(self, sequence: int, tokens: int) -> int:
        rows = [(token, i, sequence, i == tokens - 1) for i, token in enumerate(prompt(tokens))]
        self._run(rows)
        return self._likeliest(tokens - 1)

    def _run(self, rows: list[tuple[int, int, int, bool]]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for row, (token, position, sequence, is_wanted) in enumerate(rows):
            batch.token[row], batch.pos[row], batch.logits[row] = token, position, is_wanted
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
        if llama_cpp.llama_decode(self._context, batch) != 0:
            raise SystemExit("llama_decode failed")

    def _likeliest(self, row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, (self._vocabulary,)).argmax())

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)


if __name__ == "__main__":
    answer(lambda: LlamaCpp(Path(sys.argv[1])), f"llama-cpp-python {llama_cpp.__version__}")
