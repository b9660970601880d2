"""Runs rows of concurrent callers together: the queue and the loop around `form_batch`.

Each caller waits for its own rows and gets its own results, in its own order. A caller that leaves
takes its waiting rows along; one whose deadline passes is told so. Batches run one at a time in a
thread of their own; rows that arrive meanwhile wait, and so find company. It knows neither models
nor tensors: a row is whatever `run` understands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mesh.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    RingmeshError,
    Unavailable,
)
from mesh.logs import get_logger
from services.inference.batching.backlog import Backlog
from services.inference.batching.batch import BatchLimits, Row, form_batch
from services.inference.batching.terms import NO_LEVELS, Terms, check_level
from services.inference.models.timing import Execution, Timing

P = TypeVar("P")  # a row's payload
R = TypeVar("R")  # its result

_log = get_logger(__name__)

Run = Callable[[Sequence[P], int], Sequence[R]]


@dataclass(frozen=True, slots=True)
class Batched(Generic[R]):
    """A caller's results, and when they were made."""

    results: Sequence[R]
    timing: Timing


@dataclass(eq=False, slots=True)
class _Call(Generic[R]):
    deadline_s: float | None
    queued_ns: int
    done: asyncio.Future[None]
    results: dict[int, R] = field(default_factory=dict)
    waiting: int = 0
    began_ns: int = 0
    executions: list[Execution] = field(default_factory=list)

    def fail(self, error: RingmeshError) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def answer(self) -> Batched[R]:
        ordered = [self.results[number] for number in sorted(self.results)]
        timing = Timing(
            began_ns=self.began_ns,
            ended_ns=time.time_ns(),
            executions=tuple(self.executions),
            rows=len(ordered),
            queued_ns=self.queued_ns,
        )
        return Batched(ordered, timing)


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[P, R]):
    row: Row
    payload: P
    call: _Call[R]


class Batcher(Generic[P, R]):
    """The queue of one model."""

    def __init__(
        self, run: Run[P, R], limits: BatchLimits, *, max_rows: int, executor: ThreadPoolExecutor
    ) -> None:
        self._run = run
        self._limits = limits
        self._max_rows = max_rows
        self._executor = executor
        self._waiting: dict[int, _Waiting[P, R]] = {}
        self._arrivals = 0
        self._arrived = asyncio.Event()
        self._backlog = Backlog(max_rows, "rows")
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Batcher waiting={len(self._waiting)} of {self._max_rows}>"

    async def submit(self, rows: Sequence[tuple[P, int]], terms: Terms) -> Batched[R]:
        """The results of these rows (each with its width), in their order.

        Raises:
            InvalidArgument: more rows than the queue ever takes.
            QueueFull: too many rows wait already.
            DeadlineTooShort: the rows' turn would come too late.
            DeadlineExceeded: the deadline passed.
        """
        loop = asyncio.get_running_loop()
        check_level(terms.priority, NO_LEVELS)
        ends = [] if terms.deadline_s is None else [terms.deadline_s]
        ends += [] if terms.timeout_s is None else [time.monotonic() + terms.timeout_s]
        call: _Call[R] = _Call(min(ends, default=None), time.time_ns(), loop.create_future())
        self._admit(len(rows), call)
        numbers = [self._enqueue(row, width, call) for row, width in rows]
        if not rows:
            call.began_ns = call.queued_ns
            return call.answer()
        try:
            await call.done
            return call.answer()
        finally:
            call.done.cancel()  # nobody waits for it any more
            for number in numbers:
                self._waiting.pop(number, None)

    async def run_batches(self) -> None:
        """Works until cancelled; whoever still waits then is told."""
        try:
            while True:
                self._drop_late()
                rows = (waiting.row for waiting in self._waiting.values())
                decision = form_batch(rows, time.monotonic(), self._limits)
                if decision.batch:
                    await self._run_batch([self._waiting.pop(n) for n in decision.batch])
                else:
                    await self._wait(decision.wait_s)
        finally:
            self._close()

    def _admit(self, count: int, call: _Call[R]) -> None:
        if self._is_closed:
            raise Unavailable("the model is being unloaded")
        if count > self._max_rows:
            raise InvalidArgument(
                f"inputs: {count} rows are more than the {self._max_rows} that may wait",
                field="inputs",
            )
        self._backlog.check(len(self._waiting), count, call.deadline_s, time.monotonic())

    def _enqueue(self, payload: P, width: int, call: _Call[R]) -> int:
        self._arrivals += 1
        row = Row(self._arrivals, width, time.monotonic())
        self._waiting[row.number] = _Waiting(row, payload, call)
        call.waiting += 1
        self._arrived.set()
        return row.number

    def _drop_late(self) -> None:
        now_s = time.monotonic()
        for waiting in list(self._waiting.values()):
            if waiting.call.deadline_s is not None and waiting.call.deadline_s <= now_s:
                del self._waiting[waiting.row.number]
                waiting.call.fail(DeadlineExceeded("the deadline passed in the queue"))

    async def _wait(self, wait_s: float | None) -> None:
        """Until a row arrives, a batch is due or a deadline passes."""
        self._arrived.clear()
        calls = (waiting.call for waiting in self._waiting.values())
        deadlines_s = [call.deadline_s for call in calls if call.deadline_s is not None]
        ends = [] if wait_s is None else [wait_s]
        ends += [deadline_s - time.monotonic() for deadline_s in deadlines_s]
        with suppress(TimeoutError):
            async with asyncio.timeout(min(ends, default=None)):
                await self._arrived.wait()

    async def _run_batch(self, batch: Sequence[_Waiting[P, R]]) -> None:
        began_ns = time.time_ns()
        for waiting in batch:
            waiting.call.began_ns = waiting.call.began_ns or began_ns
        payloads = [waiting.payload for waiting in batch]
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(
                self._executor, self._run, payloads, batch[0].row.width
            )
        except RingmeshError as error:
            _log.error("batch failed", batcher=repr(self), rows=len(batch), error=error.message)
            _fail(batch, error)
        except Exception:  # noqa: BLE001 - whatever a backend does to one batch, the others go on
            _log.exception("batch failed unexpectedly", batcher=repr(self), rows=len(batch))
            _fail(batch, Internal("the model failed; the node's log has the details"))
        except asyncio.CancelledError:
            _fail(batch, Unavailable("the model is being unloaded"))
            raise
        else:
            _deliver(batch, results, Execution(len(batch), began_ns, time.time_ns()))
        self._backlog.count(len(batch))

    def _close(self) -> None:
        self._is_closed = True
        _fail(list(self._waiting.values()), Unavailable("the model is being unloaded"))
        self._waiting.clear()


@asynccontextmanager
async def open_batcher(
    name: str, run: Run[P, R], limits: BatchLimits, max_rows: int
) -> AsyncIterator[Batcher[P, R]]:
    """A batcher at work; leaving the block ends it once the batch under way is done."""
    executor = ThreadPoolExecutor(1, thread_name_prefix=name)
    batcher = Batcher(run, limits, max_rows=max_rows, executor=executor)
    task = asyncio.create_task(batcher.run_batches())
    try:
        yield batcher
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await asyncio.to_thread(executor.shutdown)


def _deliver(batch: Sequence[_Waiting[P, R]], results: Sequence[R], execution: Execution) -> None:
    for waiting, result in zip(batch, results, strict=True):
        call = waiting.call
        call.results[waiting.row.number] = result
        if execution not in call.executions[-1:]:  # once per call, however many rows it has in it
            call.executions.append(execution)
        call.waiting -= 1
        if not call.waiting and not call.done.done():
            call.done.set_result(None)


def _fail(batch: Sequence[_Waiting[P, R]], error: RingmeshError) -> None:
    for waiting in batch:
        waiting.call.fail(error)
