"""The calls that a server is answering at this moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class CallsInFlight:
    """Counts calls from the beginning to the end of their handlers."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

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
            if not self._count:
                self._none.set()

    async def wait_until_none(self, timeout_s: float) -> None:
        """Returns once there is none, or that time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._none.wait()
