"""Blocking work for a model that is being loaded, each in a thread of its own.

A thread cannot be stopped. Whoever gives its work up waits until it has ended, because what it has
taken is not free before; what it made is thrown away. Asked a second time, he leaves it: a node
that stops waits for nobody's load, and the process ends over the thread's head.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_PREFIX = "loading-"


async def load_in_thread(work: Callable[[], T], discard: Callable[[T], None]) -> T:
    """What `work` returns; if nobody wants it any more, it is discarded once it is there."""
    done = start_thread(work, "model")
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait({done})
        if done.exception() is None:
            await asyncio.to_thread(discard, done.result())
        raise


def start_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Begins blocking work that nothing waits for but whoever awaits the future."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    done.add_done_callback(_look)
    context = contextvars.copy_context()

    def run() -> None:
        try:
            settle = _result_of(done, context.run(work))
        except BaseException as error:  # noqa: BLE001 - the thread's edge: raised over there
            settle = _error_of(done, error)
        with contextlib.suppress(RuntimeError):  # the node has stopped
            loop.call_soon_threadsafe(settle)

    threading.Thread(target=run, name=_PREFIX + name, daemon=True).start()
    return done


def leave_threads() -> None:
    """Ends the process where such threads are left: what is inside an engine cannot be unwound."""
    if any(each.name.startswith(_PREFIX) for each in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _look(done: asyncio.Future[T]) -> None:
    """An error that nobody waits for any more is nothing to complain of."""
    if not done.cancelled():
        done.exception()


def _result_of(done: asyncio.Future[T], result: T) -> Callable[[], None]:
    return lambda: None if done.cancelled() else done.set_result(result)


def _error_of(done: asyncio.Future[T], error: BaseException) -> Callable[[], None]:
    return lambda: None if done.cancelled() else done.set_exception(error)
