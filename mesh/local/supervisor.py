"""Keeps the children of the mesh running: starts them, restarts what crashes, stops all in order.

One task per child. Leaving the block of `supervise` cancels the tasks from the front to discovery,
and a cancelled task ends its process before it is done; so no path out leaves a process behind.
What the children are is not known here.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh.local.child import (
    Child,
    bound_log,
    describe_exit,
    read_tail,
    running,
    stop_order,
)
from mesh.local.event import CrashLooping, Ended, Ready, Report, Started, Stopping
from mesh.local.problem import LocalProblem
from mesh.local.restart import Restart, RestartPolicy, decide_restart

_TAIL_LINES = 12
_LOG_CHECK_S = 10.0


class StartFailed(LocalProblem):
    """A child of the mesh does not come up."""


@dataclass(slots=True)
class _Life:
    """What is known of one child."""

    child: Child
    log: Path
    ready: asyncio.Event
    pid: int | None = None
    short_lives: int = 0
    has_been_ready: bool = False


class Supervision:
    """The running children."""

    def __init__(self, lives: Mapping[str, _Life], tasks: Mapping[str, asyncio.Task[None]]) -> None:
        self._lives = lives
        self._tasks = tasks

    def __repr__(self) -> str:
        waiting = [name for name, life in self._lives.items() if not life.ready.is_set()]
        return f"<Supervision of {len(self._lives)}, not ready: {', '.join(waiting) or 'none'}>"

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each child, of its latest life."""
        return {name: life.pid for name, life in self._lives.items() if life.pid is not None}

    async def wait_ready(self, *names: str, timeout_s: float) -> None:
        """Returns when the named children (none named: all) are ready.

        Raises:
            StartFailed: one of them does not get ready in time, or keeps crashing.
        """
        lives = [life for name, life in self._lives.items() if not names or name in names]
        tasks = [asyncio.create_task(_await_all(lives)), asyncio.create_task(self.wait_failed())]
        try:
            await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    return task.result()
        finally:
            await _cancel(*tasks)
        late = next(life for life in lives if not life.ready.is_set())
        raise StartFailed(
            f"{late.child.name} is not ready after {timeout_s:.0f} s; its log {late.log} may say "
            f"why."
        )

    async def wait_failed(self) -> None:
        """Returns never; raises what makes it impossible to go on."""
        done, _ = await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


@asynccontextmanager
async def supervise(
    children: Sequence[Child],
    logs_dir: Path,
    report: Report,
    policy: RestartPolicy | None = None,
) -> AsyncIterator[Supervision]:
    """Runs the children until the block is left; then none is left."""
    lives = {
        child.name: _Life(child, logs_dir / f"{child.name}.log", asyncio.Event())
        for child in children
    }
    keep = _Keeper(lives, report, policy or RestartPolicy())
    tasks = {name: asyncio.create_task(keep.run(life)) for name, life in lives.items()}
    try:
        yield Supervision(lives, tasks)
    finally:
        report(Stopping())
        for group in stop_order(children):
            await _cancel(*(tasks[name] for name in group))


class _Keeper:
    """Runs a child again and again."""

    def __init__(self, lives: Mapping[str, _Life], report: Report, policy: RestartPolicy) -> None:
        self._lives = lives
        self._report = report
        self._policy = policy
        self._clock = asyncio.get_running_loop().time

    async def run(self, life: _Life) -> None:
        bound_log(life.log)
        for name in life.child.after:
            await self._lives[name].ready.wait()
        while True:
            began = self._clock()
            returncode = await self._live_once(life, began)
            restart = decide_restart(self._policy, life.short_lives, self._clock() - began)
            self._tell_end(life, returncode, self._clock() - began, restart)
            life.short_lives = restart.short_lives
            await asyncio.sleep(restart.delay_s)

    async def _live_once(self, life: _Life, began: float) -> int:
        async with running(life.child, life.log) as process:
            life.pid = process.pid
            self._report(Started(life.child.name, process.pid))
            try:
                async with asyncio.TaskGroup() as tasks:
                    beside = tasks.create_task(self._attend(life, began))
                    returncode = await process.wait()
                    beside.cancel()
            finally:
                life.ready.clear()
            return returncode

    async def _attend(self, life: _Life, began: float) -> None:
        await life.child.probe()
        life.has_been_ready = True
        life.ready.set()
        self._report(Ready(life.child.name, self._clock() - began))
        while True:
            await asyncio.sleep(_LOG_CHECK_S)
            bound_log(life.log)

    def _tell_end(self, life: _Life, returncode: int, uptime_s: float, restart: Restart) -> None:
        name, how = life.child.name, describe_exit(returncode)
        tail = tuple(read_tail(life.log, _TAIL_LINES))
        if restart.is_loop and not life.has_been_ready:
            raise StartFailed(
                f"{name} ended {restart.short_lives} times before it was ready ({how}); "
                f"the end of its log {life.log}:\n" + "\n".join(tail)
            )
        self._report(Ended(name, how, uptime_s, restart.delay_s))
        if restart.short_lives == self._policy.loop_after:  # said once, not at every crash
            self._report(CrashLooping(name, str(life.log), tail))


async def _await_all(lives: Sequence[_Life]) -> None:
    for life in lives:
        await life.ready.wait()


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # whoever waited for it has it already
