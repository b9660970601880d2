"""Answers a stream of requests in their order, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


async def answer_in_order(
    requests: AsyncIterator[Q], answer: Callable[[Q], Coroutine[Any, Any, A]], *, depth: int
) -> AsyncIterator[A]:
    """Yields the answers in the order of the requests, at most `depth` of them under way.

    The first answer that fails ends the iteration with its error; whatever is still under way then,
    or when the caller leaves, is cancelled.
    """
    slots = asyncio.Semaphore(depth)
    waiting: asyncio.Queue[asyncio.Task[A] | None] = asyncio.Queue()
    under_way: set[asyncio.Task[A]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                await slots.acquire()
                task = asyncio.create_task(answer(request))
                under_way.add(task)
                waiting.put_nowait(task)
        finally:
            waiting.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await waiting.get()) is not None:
            yield await task
            under_way.discard(task)
            slots.release()
        await reader  # a stream that broke says so here
    finally:
        for each in (reader, *under_way):
            each.cancel()
        await asyncio.gather(reader, *under_way, return_exceptions=True)
