"""The batcher under any order of arrivals, departures, timeouts, failures and finished runs.

Time is virtual and the engine is held by hand, so every example is the same each time it runs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mesh.batching_options import BatchingOptions, QueuePolicy
from mesh.errors import DeadlineExceeded, DeadlineTooShort, Internal, QueueFull, RingmeshError
from services.inference.batching.batch import make_limits
from services.inference.batching.batcher import Batcher
from services.inference.batching.call import Batched
from services.inference.batching.door import Door
from services.inference.batching.metrics import BatchingMetrics
from services.inference.batching.run import Item, Ran
from services.inference.batching.runner import Instance
from services.inference.batching.terms import Terms
from tests.unit.inference.virtual_time import HeldExecutor, run_virtually, settle

MAX_ROWS = 12
OPTIONS = BatchingOptions(
    max_batch_size=4,
    max_queue_delay_ms=10,
    preferred_batch_sizes=(3,),
    priority_levels=3,
    default_priority_level=2,
    priority_queue_policy={
        2: QueuePolicy(timeout_action="DELAY"),
        3: QueuePolicy(max_queue_rows=6, default_timeout_ms=200),
    },
)


@dataclass(frozen=True)
class Value:
    """A row: nobody else's is the same."""

    caller: int
    place: int
    key: str
    is_bad: bool


@dataclass(frozen=True)
class Arrive:
    """A caller comes with rows of these keys; "!" is bad."""

    rows: tuple[str, ...]
    priority: int
    deadline_ms: int | None
    timeout_ms: int | None


@dataclass(frozen=True)
class Leave:
    """A caller goes away."""

    caller: int


@dataclass(frozen=True)
class Finish:
    """One of the runs under way ends."""

    place: int


@dataclass(frozen=True)
class Pass:
    """Time passes."""

    ms: int


Step = Arrive | Leave | Finish | Pass
spans = st.none() | st.integers(1, 500)
steps = st.lists(
    st.one_of(
        st.builds(
            Arrive,
            st.lists(st.sampled_from(["a", "a", "a", "b", "a!"]), max_size=7).map(tuple),
            st.integers(0, 3),
            spans,
            spans,
        ),
        st.builds(Leave, st.integers(0, 20)),
        st.builds(Finish, st.integers(0, 1)),
        st.builds(Pass, st.sampled_from([1, 5, 20, 300])),
    ),
    max_size=40,
)


@dataclass
class Caller:
    """What a caller asked for, and when it was over."""

    rows: Sequence[Value]
    asked: Arrive
    arrived_s: float
    task: asyncio.Task[Batched[Value]]
    ended_s: float = 0.0

    @property
    def latest_s(self) -> float:
        """When it has to be over; timeouts of level 2 only delay."""
        limits = [
            self.asked.deadline_ms,
            self.asked.timeout_ms if self.asked.priority & 1 else None,
        ]
        limits += [200] if self.asked.priority == 3 else []
        return self.arrived_s + min((ms / 1000 for ms in limits if ms is not None), default=inf)

    def end(self, _task: asyncio.Task[Batched[Value]]) -> None:
        """Notes the time."""
        self.ended_s = asyncio.get_running_loop().time()


@dataclass
class World:
    """A batcher, its engine and its callers."""

    instances: int
    executor: HeldExecutor = field(default_factory=HeldExecutor)
    callers: list[Caller] = field(default_factory=list)
    runs: list[list[Value]] = field(default_factory=list)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        door = Door(OPTIONS, MAX_ROWS, self.instances)
        instances = [Instance(self.run, self.executor) for _ in range(self.instances)]
        meter = BatchingMetrics(self.registry).meter("m", 1)
        self.batcher: Batcher[Value, Value] = Batcher(
            "m", instances, make_limits(OPTIONS), door, meter
        )

    def run(self, values: Sequence[Value], key: str) -> Ran[Value]:
        self.runs.append(list(values))
        assert len(values) <= OPTIONS.max_batch_size
        assert {value.key for value in values} == {key}
        if any(value.is_bad for value in values):
            raise ZeroDivisionError
        return Ran(values)

    async def take(self, step: Step) -> None:
        match step:
            case Arrive():
                self.arrive(step)
            case Leave(caller) if caller < len(self.callers):
                self.callers[caller].task.cancel()
            case Finish(place) if place < len(self.executor.jobs):
                self.executor.finish(place)
            case Pass(ms):
                await asyncio.sleep(ms / 1000)
        await settle()
        assert len(self.executor.jobs) <= self.instances
        assert all(self.batcher.waiting(level) <= MAX_ROWS for level in OPTIONS.levels)

    def arrive(self, step: Arrive) -> None:
        now_s, caller = asyncio.get_running_loop().time(), len(self.callers)
        rows = [
            Value(caller, place, key[0], key.endswith("!")) for place, key in enumerate(step.rows)
        ]
        terms = Terms(
            None if step.deadline_ms is None else now_s + step.deadline_ms / 1000,
            step.priority,
            None if step.timeout_ms is None else step.timeout_ms / 1000,
        )
        items = [Item(value, value.key) for value in rows]
        task = asyncio.create_task(self.batcher.submit(items, terms))
        self.callers.append(Caller(rows, step, now_s, task))
        task.add_done_callback(self.callers[-1].end)

    async def finish(self) -> None:
        """Everything that is still under way comes to its end."""
        while not all(caller.task.done() for caller in self.callers):
            await asyncio.sleep(0.011)  # past the delay
            await settle()
            for _ in list(self.executor.jobs):
                self.executor.finish()
            await settle()
        while self.executor.jobs:  # of callers that have left
            self.executor.finish()
            await settle()

    def check(self) -> None:
        for caller in self.callers:
            check_outcome(caller)
        runs = Counter(value for run in self.runs for value in run)
        assert max(runs.values(), default=0) <= 2
        spoilt = {value for run in self.runs if any(v.is_bad for v in run) for value in run}
        assert all(count == 1 for value, count in runs.items() if value not in spoilt)
        for level in OPTIONS.levels:
            assert self.batcher.waiting(level) == 0


def check_outcome(caller: Caller) -> None:
    """Each gets its own rows, or a reason that fits."""
    assert caller.ended_s <= caller.latest_s + 1e-6
    if caller.task.cancelled():
        return
    error = caller.task.exception()
    has_bad = any(row.is_bad for row in caller.rows)
    if error is None:
        assert caller.task.result().results == list(caller.rows)
        assert caller.task.result().timing.rows == len(caller.rows)
        assert not has_bad
        return
    assert isinstance(error, RingmeshError)
    allowed: dict[type[RingmeshError], bool] = {
        Internal: has_bad,
        QueueFull: len(caller.rows) > 0,
        DeadlineTooShort: caller.latest_s < inf,
        DeadlineExceeded: caller.ended_s >= caller.latest_s - 1e-6,
    }
    if caller.asked.priority == 3 and len(caller.rows) > 6:
        assert error.reason == "INVALID_ARGUMENT"
        return
    assert allowed[type(error)], error


@settings(max_examples=300, deadline=None)
@given(steps, st.integers(1, 3))
def test_whatever_happens_everybody_gets_their_own(story: list[Step], instances: int) -> None:
    async def program() -> None:
        world = World(instances)
        work = asyncio.create_task(world.batcher.run_batches())
        for step in story:
            await world.take(step)
        await world.finish()
        world.check()
        work.cancel()
        await asyncio.wait({work})

    run_virtually(program())


@settings(max_examples=100, deadline=None)
@given(steps, st.integers(1, 3))
def test_closing_at_any_moment_leaves_nobody_waiting(story: list[Step], instances: int) -> None:
    async def program() -> None:
        world = World(instances)
        work = asyncio.create_task(world.batcher.run_batches())
        for step in story:
            await world.take(step)
        work.cancel()
        await settle()
        for caller in world.callers:
            assert caller.task.done()
            check_closed(caller.task)

    run_virtually(program())


def check_closed(task: asyncio.Task[Any]) -> None:
    """It was cancelled, answered or told why not."""
    error = None if task.cancelled() else task.exception()
    assert error is None or isinstance(error, RingmeshError)
