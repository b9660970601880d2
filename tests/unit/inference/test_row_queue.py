"""The waiting rows, against a plain list of them."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.inference.batching.batch import Row
from services.inference.batching.row_queue import RowQueue

LEVELS = range(1, 4)


class RowQueueMachine(RuleBasedStateMachine):
    """Any order of arrivals, delays and departures."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = RowQueue()
        self.expected: list[tuple[Row, bool]] = []
        self.urgent: set[int] = set()
        self.arrivals = 0

    @rule(key=st.sampled_from("ab"), width=st.sampled_from([1, 2]), level=st.sampled_from(LEVELS))
    def add(self, key: str, width: int, level: int) -> None:
        row = Row(self.arrivals, key, width, 0.0, level)
        self.arrivals += 1
        self.queue.add(row)
        self.expected.append((row, False))

    @rule(number=st.integers(0, 20))
    def hurry(self, number: int) -> None:
        self.queue.hurry(number)
        self.urgent |= {row.number for row, _ in self.expected if row.number == number}

    @rule(number=st.integers(0, 20))
    def delay(self, number: int) -> None:
        self.queue.delay(number)
        self.urgent.discard(number)
        late = [(row, True) for row, _ in self.expected if row.number == number]
        self.expected = [each for each in self.expected if each[0].number != number] + late

    @rule(number=st.integers(0, 20))
    def remove(self, number: int) -> None:
        known = next((row for row, _ in self.expected if row.number == number), None)
        assert self.queue.remove(number) == known
        self.urgent.discard(number)
        self.expected = [each for each in self.expected if each[0].number != number]

    @invariant()
    def holds_what_is_expected(self) -> None:
        assert len(self.queue) == len(self.expected)
        kinds = {(row.key, row.width) for row, _ in self.expected}
        assert self.queue.has_only(kinds)
        assert not any(self.queue.has_only(kinds - {kind}) for kind in kinds)
        found = []
        for lanes in self.queue.kinds():
            assert [(lane.level, lane.is_late) for lane in lanes] == sorted(
                {(lane.level, lane.is_late) for lane in lanes}
            )
            for lane in lanes:
                assert lane.head == next(iter(lane.rows.values()))
                rows = [(row, lane.is_late) for row in lane.rows.values()]
                kind = (lane.head.key, lane.head.width, lane.level, lane.is_late)
                assert rows == [
                    (row, late)
                    for row, late in self.expected
                    if (row.key, row.width, row.level, late) == kind
                ]
                found += rows
                assert lane.is_urgent == any(row.number in self.urgent for row, _ in rows)
        assert len(found) == len(self.expected)

    @invariant()
    def counts_its_levels(self) -> None:
        for level in LEVELS:
            at_level = [row for row, _ in self.expected if row.level == level]
            assert self.queue.waiting(level) == len(at_level)
            ahead = [row for row, late in self.expected if row.level <= level and not late]
            assert self.queue.ahead(level) == len(ahead)


TestRowQueue = RowQueueMachine.TestCase


def test_what_is_shown_of_a_kind_is_kept_until_its_rows_change() -> None:
    queue = RowQueue()
    for number, key in enumerate("abca"):
        queue.add(Row(number, key, 1, 0.0))
    before = {lanes[0].head.key: lanes for lanes in queue.kinds()}
    queue.remove(0)
    queue.hurry(1)
    after = {lanes[0].head.key: lanes for lanes in queue.kinds()}
    assert [after[key] is before[key] for key in "abc"] == [False, False, True]
