"""Tokens that go to their reader without waking the task of their call.

The engine's thread hands them on itself. What is counted of them can wait: behind a run nothing of
it is left in the processor's caches, so a dozen tokens are counted at the cost of three.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from services.inference.llm.request import Delta

COUNTED_TOGETHER = 16
"""Counts are behind by fewer tokens than this."""


class Shortcut(Protocol):
    """A way to one reader. It is used by one thread at a time, and not always by the same."""

    def send(self, delta: Delta) -> bool:
        """Hands tokens on at once; false if they have to go the long way."""

    def count(self, delta: Delta, sent_ns: int) -> None:
        """Counts what was handed on then, in its order; nanoseconds since 1970."""


class CountedShortcut:
    """A shortcut that counts what it has sent some tokens later, or when asked to."""

    def __init__(self, shortcut: Shortcut, see: Callable[[Delta], None]) -> None:
        self._shortcut = shortcut
        self._see = see
        self._sent: deque[tuple[Delta, int]] = deque()
        self._counting = threading.Lock()

    def send(self, delta: Delta) -> bool:
        """Hands tokens on at once; false if they have to go the long way."""
        if not self._shortcut.send(delta):
            return False
        self._sent.append((delta, time.time_ns()))
        if len(self._sent) >= COUNTED_TOGETHER:
            self.settle()
        return True

    def settle(self) -> None:
        """Counts what has been sent so far; from any thread."""
        with self._counting:
            while self._sent:
                delta, sent_ns = self._sent.popleft()
                self._shortcut.count(delta, sent_ns)
                self._see(delta)
