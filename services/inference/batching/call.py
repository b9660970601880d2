"""One caller of a batcher: its rows that wait, the results that are there, and who is waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mesh.errors import RingmeshError
from services.inference.batching.batch import Row
from services.inference.batching.door import Ticket
from services.inference.models.timing import Execution, Timing

P = TypeVar("P")  # a row's payload
R = TypeVar("R")  # its result


@dataclass(frozen=True, slots=True)
class Batched(Generic[R]):
    """A caller's results, and when they were made."""

    results: Sequence[R]
    timing: Timing


@dataclass(eq=False, slots=True)
class Call(Generic[R]):
    """What is known of one caller until it has been answered."""

    ticket: Ticket
    done: asyncio.Future[None]
    numbers: Sequence[int] = ()
    queued_ns: int = field(default_factory=time.time_ns)
    began_ns: int = 0
    results: dict[int, R] = field(default_factory=dict)
    executions: list[Execution] = field(default_factory=list)
    error: RingmeshError | None = None

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any more."""
        return self.done.done()

    def deliver(self, number: int, result: R, execution: Execution) -> None:
        """A row's result is there."""
        self.results[number] = result
        if execution not in self.executions[-1:]:  # once, however many of its rows are in it
            self.executions.append(execution)
        if len(self.results) == len(self.numbers) and not self.is_over:
            self.done.set_result(None)

    def fail(self, error: RingmeshError) -> None:
        """There will be no answer."""
        if not self.is_over:
            self.error = error
            self.done.set_result(None)

    def answer(self) -> Batched[R]:
        """The results in the order of the rows, or the error."""
        if self.error is not None:
            raise self.error
        now_ns = time.time_ns()
        timing = Timing(
            began_ns=self.began_ns or now_ns,
            ended_ns=now_ns,
            executions=tuple(self.executions),
            rows=len(self.numbers),
            queued_ns=self.queued_ns,
        )
        return Batched([self.results[number] for number in self.numbers], timing)


@dataclass(frozen=True, slots=True)
class Waiting(Generic[P, R]):
    """A row that waits, what it is, and whose."""

    row: Row
    payload: P
    call: Call[R]
