"""Waits until a trace is whole: its spans come from several processes, each at its own moment.

Processes send their spans twice a second, so what a trace lacks that ended a moment ago is most
likely on its way, and what an older one lacks is lost or was recorded elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mesh.local.trace_store import TraceNotFound
from mesh.local.trace_tree import TraceTree

SETTLE_S = 5.0
"""Several times what a process waits before it sends its spans; enough on a busy machine."""
LOOK_INTERVAL_S = 0.2


def find_settled(
    find: Callable[[], TraceTree],
    *,
    now_s: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> TraceTree:
    """The trace, as soon as nothing is missing from it, or nothing more is to be expected.

    Raises:
        TraceNotFound: nothing of it has come either.
    """
    ends_s = now_s() + SETTLE_S
    while True:
        is_last = now_s() >= ends_s
        try:
            tree = find()
        except TraceNotFound:
            if is_last:
                raise
        else:
            if is_last or not tree.missing or tree.end_ns / 1e9 + SETTLE_S < now_s():
                return tree
        sleep(LOOK_INTERVAL_S)
