"""Keeps threads that can run anywhere off the core of one that cannot wait.

A thread that computes in step with helpers holds all of them up while somebody else has its core;
a helper's core costs half of that, for the rest of them go on. The scheduler of the system wakes a
thread where it was woken from, which is that very core. Linux alone tells and takes advice; on
other systems nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")
LOOKED_AT = 16
"""Of so many looks one is taken: a thread changes its core seldom."""
TOLD_AGAIN = 32
"""After so many without a change: others may have given such advice since."""


class CoreWatch:
    """The core of the thread that calls it, told to whoever should keep off."""

    def __init__(self, keep_off: Callable[[int], None]) -> None:
        self._keep_off = keep_off
        self._current = _find_current()
        self._core: int | None = None
        self._looks = 0

    def look(self) -> None:
        """Tells of a change, now and then; costs next to nothing."""
        self._looks += 1
        if self._current is None or self._looks % LOOKED_AT != 1:
            return
        core = self._current()
        if core != self._core or self._looks >= LOOKED_AT * TOLD_AGAIN:
            self._core, self._looks = core, 1
            self._keep_off(core)


def keep_off(name: str, core: int) -> None:
    """Has this process's threads of that name run on other cores, where there are any."""
    if sys.platform != "linux":
        return
    others = os.sched_getaffinity(0) - {core}
    if not others:
        return
    for task in _TASKS.iterdir():
        with suppress(OSError):  # it has just ended
            if (task / "comm").read_text().rstrip("\n") == name:
                os.sched_setaffinity(int(task.name), others)


def _find_current() -> Callable[[], int] | None:
    if sys.platform != "linux":
        return None
    try:
        current: Callable[[], int] = ctypes.CDLL(None).sched_getcpu
    except AttributeError:  # a C library without it
        return None
    return current
