"""Work on whole bodies: beside the event loop where there is much of it.

Inflating and compressing leave the loop alone altogether then. Parsing JSON keeps the interpreter's
lock for as long as it takes, as the conversion of a tensor does for each of its steps; but between
the steps others get their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

IN_THREAD_BYTES = 256 * 1024
"""From here on the work takes milliseconds, which the event loop should not wait for."""

T = TypeVar("T")


async def carry_out(work: Callable[[], T], size_bytes: int) -> T:
    """The result of `work`, which is on so many bytes; in a thread if they are many."""
    return work() if size_bytes < IN_THREAD_BYTES else await asyncio.to_thread(work)
