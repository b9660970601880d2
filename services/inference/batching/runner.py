"""Runs a batch on an instance of a model, hands out the results, and sees whose fault a failure is.

**One bad row fails alone.** When a batch fails that had rows of several callers in it, each
caller's part is run again by itself, once, and only a part that fails again fails its caller. That
is right because runs are pure: nobody has had anything of the failed run, and running a row again
gives what it would have given. It is bounded: a batch of n rows costs n further runs at the most.

Runs that fail one after the other may still be the doing of what is asked. So they only raise a
suspicion; whether the engine is broken shows when it fails at something that it has done before.
An engine that says itself that it is lost is believed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

from mesh.errors import Internal, InvalidArgument, RingmeshError
from mesh.logs import get_logger
from services.inference.backends.backend import BackendLost
from services.inference.backends.health import EngineBroken, EngineHealth
from services.inference.batching.call import Call, Waiting
from services.inference.batching.door import Door
from services.inference.batching.run import Ran, Run
from services.inference.models.timing import Execution

P = TypeVar("P")  # a row's payload
R = TypeVar("R")  # its result

Batch = Sequence[Waiting[P, R]]
Fail = Callable[[Call[R], RingmeshError], None]

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Instance(Generic[P, R]):
    """What runs batches, one at a time, and the thread that it runs them in."""

    run: Run[P, R]
    executor: Executor


class Runner(Generic[P, R]):
    """What has to do with running one model's batches; `fail` ends a call."""

    def __init__(self, name: str, door: Door, fail: Fail[R]) -> None:
        self._name = name
        self._door = door
        self._fail = fail
        self._health = EngineHealth()
        self._suspicion = ""
        self._suspected = asyncio.Event()
        self._is_given_up = False

    def __repr__(self) -> str:
        return f"<Runner {self._name} {self._health!r}>"

    async def run(self, instance: Instance[P, R], batch: Batch[P, R]) -> None:
        """All of it together; if that fails, each caller's part, so that the others have theirs."""
        error = await self._attempt(instance, batch)
        if error is None:
            return
        parts = _by_caller(batch)
        if len(parts) == 1:
            self._fail(batch[0].call, error)
            return
        for call, part in parts.items():
            if not call.is_over and (error := await self._attempt(instance, part)):
                self._fail(call, error)

    async def broken(self, probe: Callable[[], Awaitable[object]]) -> str:
        """Returns when the engine is lost, or fails run after run and at `probe`; says why."""
        while True:
            await self._suspected.wait()
            self._suspected.clear()
            if self._is_given_up:
                return self._suspicion
            try:
                await probe()
            except Internal:
                return self._suspicion
            except RingmeshError as refusal:
                _log.warning("probe refused", model=self._name, error=refusal.message)

    def give_up(self, why: str) -> None:
        """There will be no more runs; no probe is needed to see that."""
        self._suspicion, self._is_given_up = why, True
        self._suspected.set()

    async def _attempt(self, instance: Instance[P, R], batch: Batch[P, R]) -> RingmeshError | None:
        """Runs these rows and delivers their results; the error if that fails."""
        loop = asyncio.get_running_loop()
        began_ns, began_s = time.time_ns(), loop.time()
        key, payloads = batch[0].row.key, [waiting.payload for waiting in batch]
        try:
            ran = await loop.run_in_executor(
                instance.executor, _checked, instance.run, payloads, key
            )
        except InvalidArgument as error:  # its callers' own, and nothing for the log
            return error
        except RingmeshError as error:
            _log.error("batch failed", model=self._name, rows=len(batch), error=error.message)
            if isinstance(error, Internal):
                self._suspect(error)
            return error
        except Exception as error:  # noqa: BLE001 - whatever a backend does, the others go on
            _log.exception("batch failed unexpectedly", model=self._name, rows=len(batch))
            self._suspect(error)
            return Internal("the model failed; the node's log has the details")
        self._health.succeed()
        self._door.count_run(key, len(batch), loop.time() - began_s, loop.time())
        execution = Execution(len(batch), began_ns, time.time_ns(), ran.input_ns, ran.output_ns)
        for waiting, result in zip(batch, ran.results, strict=True):
            waiting.call.deliver(waiting.row.number, result, execution)
        return None

    def _suspect(self, error: Exception) -> None:
        try:
            self._health.fail(error)
        except EngineBroken as broken:
            self._suspicion = broken.message
            self._is_given_up |= isinstance(error, BackendLost)  # no probe is needed to see that
            self._suspected.set()


def _checked(run: Run[P, R], payloads: Sequence[P], key: object) -> Ran[R]:
    ran = run(payloads, key)
    if len(ran.results) != len(payloads):
        raise Internal(f"the model gave {len(ran.results)} results for {len(payloads)} rows")
    return ran


def _by_caller(batch: Batch[P, R]) -> Mapping[Call[R], Batch[P, R]]:
    parts: dict[Call[R], list[Waiting[P, R]]] = {}
    for waiting in batch:
        parts.setdefault(waiting.call, []).append(waiting)
    return parts
