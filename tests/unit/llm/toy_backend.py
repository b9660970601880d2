"""A backend whose next token follows from everything that its slot holds.

It keeps the tokens themselves where a real one keeps keys and values. If the scheduler mixes slots
up, reuses what it should not, or leaves a gap, the logits come out wrong.
"""

from __future__ import annotations

import threading
import zlib
from typing import TYPE_CHECKING

import numpy as np

from services.inference.backends.backend import BackendFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

VOCABULARY = 64
_NOTHING = -1


def logits_after(tokens: Sequence[int]) -> NDArray[np.float32]:
    """What a model says after these tokens: arbitrary, but always the same."""
    seed = zlib.crc32(np.asarray(tokens, np.int32).tobytes())
    return np.random.default_rng(seed).standard_normal(VOCABULARY).astype(np.float32)


class ToyBackend:
    name = "toy"
    memory_bytes = 0

    def __init__(self, slots: int = 4, context_tokens: int = 128) -> None:
        self.slots = slots
        self.context_tokens = context_tokens
        self.held = np.full((slots, context_tokens), _NOTHING)
        self.failures: set[int] = set()
        self.failing_copies: set[int] = set()
        self.poison: int | None = None
        self.error: Exception = BackendFailed("the toy is broken")
        self.runs = 0
        self.copies = 0
        self._allowed = float("inf")
        self._changed = threading.Condition()

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> NDArray[np.float32]:
        self._run(tokens)
        self.held[slot, start : start + len(tokens)] = tokens
        return self._logits(slot, start + len(tokens))

    def decode(self, tokens: Sequence[int], starts: Sequence[int]) -> NDArray[np.float32]:
        self._run(tokens)
        self.held[np.arange(len(tokens)), list(starts)] = tokens
        ends = [start + 1 for start in starts]
        return np.stack([self._logits(slot, end) for slot, end in enumerate(ends)])

    def copy(self, source: int, target: int, tokens: int) -> None:
        self._copy()
        self.held[target] = _NOTHING
        self.held[target, :tokens] = self.held[source, :tokens]

    def exchange(self, first: int, second: int, tokens: int) -> None:
        self._copy()
        kept = self.held[first].copy()
        self.held[first] = _NOTHING
        self.held[first, :tokens] = self.held[second, :tokens]
        self.held[second] = _NOTHING
        self.held[second, :tokens] = kept[:tokens]

    def close(self) -> None:
        pass

    def fail_next(self) -> None:
        self.failures.add(self.runs + 1)

    def hold(self, *, after: int = 0) -> None:
        """Lets `after` runs pass and then none, until `go_on`."""
        with self._changed:
            self._allowed = self.runs + after
            self._changed.notify()

    def go_on(self) -> None:
        with self._changed:
            self._allowed = float("inf")
            self._changed.notify()

    def break_down(self, *, after: int = 0) -> None:
        """No run succeeds any more, but for so many."""
        self.failures = set(range(after + 1, 10_000))

    def _copy(self) -> None:
        self.copies += 1
        if self.copies in self.failing_copies:
            raise self.error

    def _run(self, tokens: Sequence[int]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.runs < self._allowed)
            self.runs += 1
        if self.runs in self.failures or self.poison in tokens:
            raise self.error

    def _logits(self, slot: int, end: int) -> NDArray[np.float32]:
        return logits_after(self.held[slot, :end].tolist())
