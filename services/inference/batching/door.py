"""Who may join a model's queue: its levels, their room, and whether a deadline can be met.

Each level has room of its own, so that a flood at one keeps nobody out of another. How long a
newcomer waits follows from how fast the whole queue has been shrinking and from those who stand
before it; how long its own rows take, from the quickest of the recent runs.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf

from mesh.batching_options import BatchingOptions, QueuePolicy
from mesh.errors import DeadlineTooShort, InvalidArgument
from services.inference.batching.backlog import Backlog
from services.inference.batching.row_queue import RowQueue
from services.inference.batching.run_times import RunTimes
from services.inference.batching.terms import Terms, check_level

_NO_LIMIT = sys.maxsize


@dataclass(frozen=True, slots=True)
class Ticket:
    """What is granted: a level, and when what becomes of a request that still waits then.

    First it stops waiting for company, then it goes behind those in time, then it ends.
    """

    level: int
    hurries_s: float | None = None
    late_s: float | None = None
    expires_s: float | None = None


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

    def check_size(self, rows: int, terms: Terms) -> None:
        """Refuses a request of more rows than may ever wait at its level.

        It takes their number alone: a few bytes can ask for more rows than could ever be made.
        """
        check_level(terms.priority, self._options.levels)
        limit = self._limits[self._level_of(terms)]
        if rows > limit and not terms.is_own:
            raise InvalidArgument(
                f"inputs: {rows} rows are more than the {limit} that may wait", field="inputs"
            )

    def admit(
        self,
        queue: RowQueue,
        keys: Sequence[Hashable],
        terms: Terms,
        now_s: float,
        *,
        is_free: bool = False,
    ) -> Ticket:
        """Lets rows of these keys join the queue on these terms, or says why not.

        Where an instance `is_free` for all that wait and these, they wait for company alone, and
        not for a turn: that is no backlog, and time spent so says nothing about the pace.

        Raises:
            InvalidArgument: there is no such level, or it never has room for so many.
            QueueFull: it has none now.
            DeadlineTooShort: they would have to go before they were answered.
        """
        self.check_size(len(keys), terms)
        level = self._level_of(terms)
        if terms.is_own:
            ticket = Ticket(level)
        else:
            self._rooms[level].check(queue.waiting(level), len(keys), None, now_s)
            ticket = make_ticket(level, self._policies[level], terms, now_s)
        backlog = 0 if is_free else len(queue)
        if ticket.expires_s is None:
            self._turns.check(backlog, len(keys), None, now_s)
            return ticket
        least_s = self._least_s(keys, now_s)
        spare_s = ticket.expires_s - now_s - least_s
        if spare_s <= 0:
            raise DeadlineTooShort(
                "the deadline passes before an answer could be made: "
                f"that takes {least_s * 1000:.1f} ms"
            )
        turn_s, ahead = now_s + spare_s, min(backlog, queue.ahead(level))
        self._turns.check(backlog, len(keys), turn_s, now_s, ahead=ahead)
        return replace(ticket, hurries_s=now_s + spare_s / 2)

    def count_departures(self, levels: Iterable[int]) -> None:
        """Rows of these levels have been dealt with."""
        counts = Counter(levels)
        for level, count in counts.items():
            self._rooms[level].count(count)
        self._turns.count(counts.total())

    def count_run(self, key: Hashable, rows: int, took_s: float, ended_s: float) -> None:
        """Rows of this key have been run together, with success."""
        self._run_times.count(key, rows, took_s, ended_s)

    def _level_of(self, terms: Terms) -> int:
        highest, *_ = self._options.levels
        return highest if terms.is_own else terms.priority or self._options.default_priority_level

    def _least_s(self, keys: Iterable[Hashable], now_s: float) -> float:
        counts = Counter(keys).items()
        each = (self._run_times.least_s(key, now_s) * count for key, count in counts)
        return sum(each) / self._instances


def make_ticket(level: int, policy: QueuePolicy, terms: Terms, now_s: float) -> Ticket:
    """When a request's deadline and its timeout take effect, by the policy of its level."""
    timeout_s = policy.timeout_s(terms.timeout_s)
    if timeout_s is None:
        return Ticket(level, expires_s=terms.deadline_s)
    if policy.timeout_action == "DELAY":
        return Ticket(level, late_s=now_s + timeout_s, expires_s=terms.deadline_s)
    ends = (now_s + timeout_s, inf if terms.deadline_s is None else terms.deadline_s)
    return Ticket(level, expires_s=min(ends))


def _unit(level: int) -> str:
    return f"rows of priority {level}" if level else "rows"
