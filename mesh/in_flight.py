"""The calls that a server is answering at this moment."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


class CallsInFlight:
    """Counts calls from the beginning to the end of their handlers."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()
        self._last_end_s = -math.inf

    def __repr__(self) -> str:
        return f"<CallsInFlight {self._count}>"

    @contextmanager
    def one(self) -> Iterator[None]:
        """A call, for as long as the block lasts."""
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._count -= 1
            self._last_end_s = time.monotonic()
            if not self._count:
                self._none.set()

    async def wait_until_none(self, *, quiet_s: float) -> None:
        """Returns once the last has ended so long ago."""
        while (left_s := self._last_end_s + quiet_s - time.monotonic()) > 0 or self._count:
            await self._none.wait()
            await asyncio.sleep(max(left_s, 0))
