"""Blocking queries as a stream of changes.

The loss of Consul is survived by keeping the last value, so that nothing downstream changes while
it is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from mesh.catalog.loss import FIRST_RETRY_S, LOST, RETRY_MAX_S
from mesh.logs import get_logger

WAIT_S = 60
"""Length of a blocking query."""

_log = get_logger(__name__)

T = TypeVar("T")


async def changes(
    what: str, ask: Callable[[str | None], Awaitable[tuple[str, T]]]
) -> AsyncIterator[T]:
    """Turns blocking queries into changes; an error keeps the last value and asks again."""
    index: str | None = None
    last: T | None = None
    started = False
    wait_s = FIRST_RETRY_S
    while True:
        try:
            found, value = await ask(index)
        except LOST as error:
            if wait_s == FIRST_RETRY_S:
                _log.warning(
                    "watch interrupted, keeping the last value", what=what, error=str(error)
                )
            index = None
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_MAX_S)
            continue
        if wait_s > FIRST_RETRY_S:
            _log.info("watch resumed", what=what)
        wait_s = FIRST_RETRY_S
        # An index that went backwards belongs to another history: ask without one.
        index = None if index is not None and int(found) < int(index) else found
        if not started or value != last:
            started, last = True, value
            yield value
