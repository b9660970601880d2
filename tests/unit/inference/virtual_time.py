"""An event loop whose clock moves only when nothing else is left to do, and an engine held by hand.

A day passes in a moment, nothing depends on how busy the machine is, and a program that waits for
something that will never happen is told so instead of hanging.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):  # type: ignore[misc, valid-type]  # it is a variable
    """Instead of sleeping, moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events and timeout is None:
            raise RuntimeError("everybody waits for something that will never happen")
        self.now_s += 0.0 if events else timeout or 0.0
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop."""

    def __init__(self) -> None:
        self._selector_clock = _Jumping()
        super().__init__(self._selector_clock)

    def time(self) -> float:
        return self._selector_clock.now_s


class HandClock:
    """A clock in nanoseconds that the test moves."""

    def __init__(self) -> None:
        self.now_ns = 5_000_000_000

    def __call__(self) -> int:
        return self.now_ns


class HeldExecutor(Executor):
    """Jobs that are done when the test says so, in the order that it says."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    def finish(self, place: int = 0) -> None:
        """Does a job."""
        future, job = self.jobs.pop(place)
        try:
            result = job()
        except BaseException as error:  # noqa: BLE001 - as executors do
            future.set_exception(error)
        else:
            future.set_result(result)


def run_virtually(program: Coroutine[Any, Any, T]) -> T:
    """Runs it in no time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(program)


async def settle() -> None:
    """Until everybody has done what could be done at this moment."""
    for _ in range(20):
        await asyncio.sleep(0)
