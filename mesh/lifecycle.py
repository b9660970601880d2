"""The frame of a process: logs, signals, and one `main` whose `with` blocks are its lifetime.

`main` enters what it needs in order, awaits the event, and leaves; leaving is the same list read
upwards. SIGTERM and SIGINT set the event; a second one ends the process at once.

Work beside the event loop has more threads than asyncio gives it, and the end has its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import ValidationError

from mesh.errors import RingmeshError
from mesh.logs import configure_logs, get_logger

T = TypeVar("T")
Main = Callable[[asyncio.Event], Awaitable[None]]

THREADS = 256
"""Each answer that its reader does not take has one waiting in the server; of asyncio's, a handful
more than there are cores, a few such readers would have them all. They are made when needed."""


def run(name: str, main: Main, *, log_level: str = "info") -> None:
    """Runs a service's `main` until a signal; exits 1 with one line if it cannot start."""
    configure_logs(log_level, service=name)
    log = get_logger(__name__)
    try:
        asyncio.run(_until_signal(main))
    except (RingmeshError, OSError) as error:
        log.error("stopped by an error", error=str(error), kind=type(error).__name__)  # noqa: TRY400
        sys.exit(1)


def _variable(place: tuple[int | str, ...]) -> str:
    """What sets a field: its alias, or our prefix and its name."""
    name = ".".join(str(part) for part in place)
    return name if name.isupper() else f"RINGMESH_{name.upper()}"


def settings_or_exit(factory: Callable[[], T]) -> T:
    """Builds settings from the environment; exits 2 naming each wrong variable."""
    try:
        return factory()
    except ValidationError as error:
        for problem in error.errors():
            message = problem["msg"].removeprefix("Value error, ")
            sys.stderr.write(f"settings: {_variable(problem['loc'])}: {message}\n")
        sys.exit(2)


async def _until_signal(main: Main) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(_make_threads())

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)  # asked twice: the drain is not wanted
        # Should readers have all of the others: it takes a thread to close the server on them.
        loop.set_default_executor(_make_threads())
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await main(stop)


def _make_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="asyncio")
