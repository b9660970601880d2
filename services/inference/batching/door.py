"""Who may join a model's queue: its levels, their room, and whether a deadline can be met.

Each level has room of its own, so that a flood at one keeps nobody out of another. How long a
newcomer waits follows from how fast the whole queue has been shrinking and from those who stand
before it; how long its own rows take, from the quickest of the recent runs.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Hashable, Iterable

from mesh.batching_options import BatchingOptions, QueuePolicy
from mesh.errors import DeadlineTooShort, InvalidArgument
from services.inference.batching.backlog import Backlog
from services.inference.batching.row_queue import RowQueue
from services.inference.batching.run_times import RunTimes
from services.inference.batching.terms import Terms, check_level

_NO_LIMIT = sys.maxsize


class Door:
    """The door of one model's queue; a level without a limit of its own has the node's."""

    def __init__(self, options: BatchingOptions, node_limit: int, instances: int) -> None:
        self._options = options
        self._policies = options.policies
        self._instances = instances
        self._limits = {
            level: policy.max_queue_rows or node_limit for level, policy in self._policies.items()
        }
        self._rooms = {level: Backlog(self._limits[level], _unit(level)) for level in self._limits}
        self._turns = Backlog(_NO_LIMIT, "rows")
        self._run_times = RunTimes()

    def level_of(self, terms: Terms) -> int:
        """The level that these terms mean; `InvalidArgument` if there is none such."""
        check_level(terms.priority, self._options.levels)
        return terms.priority or self._options.default_priority_level

    def policy_of(self, level: int) -> QueuePolicy:
        """What holds at a level."""
        return self._policies[level]

    def check(
        self,
        queue: RowQueue,
        level: int,
        keys: Iterable[Hashable],
        deadline_s: float | None,
        now_s: float,
    ) -> None:
        """Lets rows of these keys join the queue at a level, or says why not.

        Raises:
            InvalidArgument: the level never has room for so many.
            QueueFull: it has none now.
            DeadlineTooShort: the deadline would pass first.
        """
        counts = Counter(keys)
        joining = counts.total()
        if joining > self._limits[level]:
            raise InvalidArgument(
                f"inputs: {joining} rows are more than the {self._limits[level]} that may wait",
                field="inputs",
            )
        self._rooms[level].check(queue.waiting(level), joining, None, now_s)
        if deadline_s is not None:
            least_s = self._least_s(counts, now_s)
            if deadline_s <= now_s + least_s:
                raise DeadlineTooShort(
                    "the deadline passes before an answer could be made: "
                    f"that takes {least_s * 1000:.1f} ms"
                )
            deadline_s -= least_s
        self._turns.check(len(queue), joining, deadline_s, now_s, ahead=queue.ahead(level))

    def patience_s(self, keys: Iterable[Hashable], deadline_s: float, now_s: float) -> float:
        """How long rows with this deadline may wait for company: half of what their run leaves."""
        return max(0.0, deadline_s - now_s - self._least_s(Counter(keys), now_s)) / 2

    def count_departures(self, levels: Iterable[int]) -> None:
        """Rows of these levels have been dealt with."""
        counts = Counter(levels)
        for level, count in counts.items():
            self._rooms[level].count(count)
        self._turns.count(counts.total())

    def count_run(self, key: Hashable, rows: int, took_s: float, ended_s: float) -> None:
        """Rows of this key have been run together, with success."""
        self._run_times.count(key, rows, took_s, ended_s)

    def _least_s(self, counts: Counter[Hashable], now_s: float) -> float:
        each = (self._run_times.least_s(key, now_s) * count for key, count in counts.items())
        return sum(each) / self._instances


def _unit(level: int) -> str:
    return f"rows of priority {level}" if level else "rows"
