"""When an answer was made, and in which runs of the engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Execution:
    """One run of the engine, for the rows of everybody who was in the batch; each is its own.

    Of its time, `input_ns` went into making the batch and `output_ns` into taking it apart.
    """

    rows: int
    began_ns: int
    ended_ns: int
    input_ns: int = 0
    output_ns: int = 0

    @property
    def infer_ns(self) -> int:
        """What the model itself took; never negative, whatever the clock did."""
        return max(0, self.ended_ns - self.began_ns - self.input_ns - self.output_ns)


@dataclass(frozen=True, slots=True)
class Timing:
    """When an answer was made, in nanoseconds since 1970.

    `queued_ns` is None where nothing ever waits; `rows` are the caller's own, and `executions` had
    them among theirs.
    """

    began_ns: int
    ended_ns: int
    executions: tuple[Execution, ...] = ()
    rows: int = 1
    queued_ns: int | None = None

    @property
    def batch_size(self) -> int:
        """The rows of the largest batch that had a part in the answer."""
        return max((execution.rows for execution in self.executions), default=0)
