"""One child process of the mesh: what it is, how it is started, and how it is stopped for sure."""

import asyncio
import os
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import IO

LOG_KEPT_BYTES = 16 << 20
"""A log that is longer than this is set aside."""


class Stage(IntEnum):
    """Where a child stands between discovery and the front; stopping goes from high to low.

    The front drains while everything that its last requests need is still there.
    """

    DISCOVERY = 0
    TRACING = 1
    CONTROL = 2
    NODE = 3
    PROXY = 4
    FRONT = 5


@dataclass(frozen=True, slots=True)
class Child:
    """A process to run; `probe` returns when it really does its work."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    stage: Stage
    probe: Callable[[], Awaitable[None]]
    after: tuple[str, ...] = ()
    """Children that must be ready before this one is started."""
    stop_timeout_s: float = 5.0


def stop_order(children: Sequence[Child]) -> list[list[str]]:
    """Names in the order in which to stop; those of one group stop together."""
    stages = sorted({child.stage for child in children}, reverse=True)
    return [[child.name for child in children if child.stage == stage] for stage in stages]


@asynccontextmanager
async def running(child: Child, log_path: Path) -> AsyncIterator[Process]:
    """Runs the child in a process group of its own; it has ended when the block is left."""
    with _open_log(log_path) as log:
        process = await asyncio.create_subprocess_exec(
            *leashed(child.argv),
            env=dict(child.env),
            stdin=DEVNULL,
            stdout=log,
            stderr=STDOUT,
            process_group=0,  # Ctrl-C reaches the supervisor alone, which stops all in order
        )
    try:
        yield process
    finally:
        await _stop(process, child.stop_timeout_s)


def _open_log(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


def leashed(argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` and dies with this process."""
    leash = Path(__file__).with_name("leash.py")
    return [sys.executable, "-I", "-S", str(leash), str(os.getpid()), *argv]


async def _stop(process: Process, timeout_s: float) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), timeout_s)
    kill_group(process.pid)
    await process.wait()


def kill_group(pid: int) -> None:
    """Kills whatever is left of the group that `pid` leads."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def describe_exit(returncode: int) -> str:
    """`killed by SIGKILL` or `exit status 3`."""
    if returncode >= 0:
        return f"exit status {returncode}"
    return f"killed by {signal.Signals(-returncode).name}"


def bound_log(path: Path) -> None:
    """Sets a long log aside as `<name>.log.1`; whoever writes to it goes on in the empty file."""
    if path.exists() and path.stat().st_size > LOG_KEPT_BYTES:
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        os.truncate(path, 0)  # the writer appends, so it does not leave a hole


def read_tail(path: Path, lines: int, *, window_bytes: int = 64 << 10) -> list[str]:
    """The last lines of a log, all of them whole; it is read backwards until there are enough."""
    if not lines or not path.exists():
        return []
    size_bytes = path.stat().st_size
    with path.open("rb") as log:
        while True:
            start = max(0, size_bytes - window_bytes)
            log.seek(start)
            found = log.read(size_bytes - start).decode(errors="replace").splitlines()
            if not start:
                return found[-lines:]
            if len(found) > lines:  # the first one may have begun before
                return found[1:][-lines:]
            window_bytes *= 2
