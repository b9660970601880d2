"""Runs rows of concurrent callers together: the queue and the loops around `form_batch`.

Each caller waits for its own rows and gets its own results, in its own order. A caller that leaves
takes its waiting rows along; one whose deadline passes is told so, whatever the engine is doing.
Each instance of the model runs one batch at a time in a thread of its own; rows that arrive
meanwhile wait, and so find company. It knows neither models nor tensors: a row is whatever `run`
understands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Generic, TypeVar

from mesh.batching_options import BatchingOptions
from mesh.errors import DeadlineExceeded, RingmeshError, Unavailable
from mesh.logs import get_logger
from services.inference.batching.batch import BatchLimits, Row, form_batch, make_limits
from services.inference.batching.call import Batched, Call, Waiting
from services.inference.batching.door import Door
from services.inference.batching.metrics import BatchMeter
from services.inference.batching.row_queue import RowQueue
from services.inference.batching.run import Item, Run
from services.inference.batching.runner import Instance, Runner
from services.inference.batching.terms import ANY_TIME, Terms

P = TypeVar("P")  # a row's payload
R = TypeVar("R")  # its result

_log = get_logger(__name__)


class Batcher(Generic[P, R]):
    """The queue of one model."""

    def __init__(
        self,
        name: str,
        instances: Sequence[Instance[P, R]],
        limits: BatchLimits,
        door: Door,
        meter: BatchMeter,
    ) -> None:
        self._name = name
        self._instances = instances
        self._limits = limits
        self._door = door
        self._meter = meter
        self._queue = RowQueue()
        self._waiting: dict[int, Waiting[P, R]] = {}
        self._arrivals = 0
        self._free = len(instances)
        self._changed = asyncio.Event()
        self._runner: Runner[P, R] = Runner(name, door, self._fail)
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Batcher {self._name} waiting={len(self._queue)} {self._queue!r}>"

    def check_size(self, rows: int, terms: Terms) -> None:
        """Refuses so many rows before they are made, if they could never wait together.

        Raises:
            InvalidArgument: there is no such priority, or never room for so many rows.
        """
        with self._counting_refusals():
            self._door.check_size(rows, terms)

    async def submit(self, items: Sequence[Item[P]], terms: Terms = ANY_TIME) -> Batched[R]:
        """The results of these rows, in their order.

        Raises:
            InvalidArgument: there is no such priority, or never room for so many rows.
            QueueFull: too many rows wait already at this priority.
            DeadlineTooShort: the rows' turn would come too late.
            DeadlineExceeded: the deadline passed, or the timeout that its level sets.
        """
        with self._counting_refusals():
            call = self._admit(items, terms)
        if not items:
            return call.answer()
        try:
            with self._timers(call):
                await call.done
            return call.answer()
        finally:
            call.done.cancel()  # nobody waits for it any more
            self._withdraw(call)

    def waiting(self, level: int) -> int:
        """How many rows wait at a level."""
        return self._queue.waiting(level)

    async def broken(self, probe: Callable[[], Awaitable[object]]) -> str:
        """Returns when run after run has failed, and `probe` too; says why."""
        return await self._runner.broken(probe)

    async def run_batches(self) -> None:
        """Works until cancelled; whoever still waits then is told."""
        try:
            async with asyncio.TaskGroup() as workers:
                for instance in self._instances:
                    workers.create_task(self._work(instance))
        except* Exception:  # noqa: BLE001 - our own fault: nobody would ever be answered again
            _log.exception("the queue has ended", batcher=repr(self))
            self._runner.give_up("the queue has ended; the node's log has the details")
        finally:
            self._close()

    @contextmanager
    def _counting_refusals(self) -> Iterator[None]:
        try:
            yield
        except RingmeshError as error:
            self._meter.count_refused(error.reason)
            raise

    def _admit(self, items: Sequence[Item[P]], terms: Terms) -> Call[R]:
        if self._is_closed:
            raise _unloading()
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        keys, is_free = [item.key for item in items], self._is_free_for(items)
        ticket = self._door.admit(self._queue, keys, terms, now_s, is_free=is_free)
        call: Call[R] = Call(ticket, loop.create_future())
        call.numbers = [self._enqueue(item, call, now_s) for item in items]
        self._changed.set()
        return call

    def _is_free_for(self, items: Sequence[Item[P]]) -> bool:
        """Whether an instance is, for all that wait and these, as one batch."""
        kinds = {(item.key, item.width) for item in items}
        if not self._free or len(kinds) != 1 or not self._queue.has_only(kinds):
            return False
        ((_, width),) = kinds
        return len(self._queue) + len(items) <= self._limits.rows_of(width)

    def _enqueue(self, item: Item[P], call: Call[R], now_s: float) -> int:
        self._arrivals += 1
        number = self._arrivals
        row = Row(number, item.key, item.width, now_s, call.ticket.level)
        self._waiting[number] = Waiting(row, item.payload, call)
        self._queue.add(row)
        return number

    @contextmanager
    def _timers(self, call: Call[R]) -> Iterator[None]:
        """Does at each moment of the call's ticket what is due then."""
        loop, ticket = asyncio.get_running_loop(), call.ticket
        moments = (
            (ticket.hurries_s, self._hurry),
            (ticket.late_s, self._delay),
            (ticket.expires_s, self._expire),
        )
        timers = [loop.call_at(at_s, act, call) for at_s, act in moments if at_s is not None]
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()

    def _expire(self, call: Call[R]) -> None:
        if call.is_over:
            return
        place = "in the queue" if set(call.numbers) & self._waiting.keys() else "during the run"
        error = DeadlineExceeded(f"the deadline passed {place}")
        self._meter.count_refused(error.reason)
        self._fail(call, error)

    def _hurry(self, call: Call[R]) -> None:
        for number in call.numbers:
            self._queue.hurry(number)
        self._changed.set()

    def _delay(self, call: Call[R]) -> None:
        for number in call.numbers:
            self._queue.delay(number)
        self._changed.set()

    def _fail(self, call: Call[R], error: RingmeshError) -> None:
        call.fail(error)
        self._withdraw(call)

    def _withdraw(self, call: Call[R]) -> None:
        for number in call.numbers:
            if self._waiting.pop(number, None) is not None:
                self._queue.remove(number)

    async def _work(self, instance: Instance[P, R]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            decision = form_batch(self._queue.kinds(), loop.time(), self._limits)
            if decision.batch:
                await self._run_batch(instance, decision.batch)
                continue
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(decision.wait_s):
                    await self._changed.wait()

    async def _run_batch(self, instance: Instance[P, R], numbers: Sequence[int]) -> None:
        batch = [self._waiting.pop(number) for number in numbers]
        for number in numbers:
            self._queue.remove(number)
        self._free -= 1
        try:
            self._begin(batch)
            await self._runner.run(instance, batch)
        except BaseException:  # above all cancellation: nobody else knows of these any more
            for waiting in batch:
                self._fail(waiting.call, _unloading())
            raise
        finally:
            self._free += 1
        self._door.count_departures(waiting.call.ticket.level for waiting in batch)

    def _begin(self, batch: Sequence[Waiting[P, R]]) -> None:
        now_ns = time.time_ns()
        calls = {waiting.call for waiting in batch if not waiting.call.began_ns}
        self._meter.count_batch(len(batch), ((now_ns - call.queued_ns) / 1e9 for call in calls))
        for call in calls:
            call.began_ns = now_ns

    def _close(self) -> None:
        self._is_closed = True
        for waiting in list(self._waiting.values()):
            self._fail(waiting.call, _unloading())


@asynccontextmanager
async def open_batcher(
    name: str,
    runs: Sequence[Run[P, R]],
    options: BatchingOptions,
    meter: BatchMeter,
    *,
    max_rows: int,
    max_batch_width: int | None = None,
) -> AsyncIterator[Batcher[P, R]]:
    """A batcher at work; each of `runs` is an instance, called by a thread of its own.

    Leaving the block ends it once the batches under way are done.
    """
    async with AsyncExitStack() as stack:
        executors = [ThreadPoolExecutor(1, thread_name_prefix=name) for _ in runs]
        for executor in executors:
            stack.push_async_callback(asyncio.to_thread, executor.shutdown)
        instances = [Instance(*each) for each in zip(runs, executors, strict=True)]
        limits, door = make_limits(options, max_batch_width), Door(options, max_rows, len(runs))
        batcher: Batcher[P, R] = Batcher(name, instances, limits, door, meter)
        stack.push_async_callback(_end, asyncio.create_task(batcher.run_batches()))
        with meter.showing(options.levels, batcher.waiting):
            yield batcher


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _unloading() -> Unavailable:
    return Unavailable("the model is being unloaded")
