"""The rows that wait, kept as `form_batch` looks at them: by kind, level and lateness.

It decides nothing and knows no clock. A decision looks at the heads of the lanes and at the rows of
one batch, so that its cost does not grow with the length of the queue; with the number of kinds it
does, so that what is shown of a kind is kept until its rows change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence

from services.inference.batching.batch import Lane, Row

_Kind = tuple[Hashable, int]
_Place = tuple[int, bool]


class RowQueue:
    """Rows by number."""

    def __init__(self) -> None:
        self._kinds: dict[_Kind, dict[_Place, dict[int, Row]]] = {}
        self._places: dict[int, tuple[_Kind, _Place]] = {}
        self._counts: Counter[_Place] = Counter()
        self._urgent: dict[int, tuple[_Kind, _Place]] = {}
        self._lanes: dict[_Kind, Sequence[Lane]] = {}  # as shown, until they change

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __repr__(self) -> str:
        return f"<RowQueue {dict(sorted(self._counts.items()))}>"

    def add(self, row: Row) -> None:
        """The row waits, behind all others of its lane."""
        self._put(row, (row.level, False))

    def hurry(self, number: int) -> None:
        """The row cannot wait for company any more; nothing if it does not wait at all."""
        if number in self._places:
            self._urgent[number] = self._places[number]
            self._lanes.pop(self._places[number][0], None)

    def delay(self, number: int) -> None:
        """The row is late from now on; one that does not wait any more is none."""
        row = self.remove(number)
        if row is not None:
            self._put(row, (row.level, True))

    def remove(self, number: int) -> Row | None:
        """The row waits no more; None if it did not."""
        place = self._places.pop(number, None)
        if place is None:
            return None
        self._urgent.pop(number, None)
        kind, lane = place
        self._lanes.pop(kind, None)
        lanes = self._kinds[kind]
        row = lanes[lane].pop(number)
        if not lanes[lane]:
            del lanes[lane]
        if not lanes:
            del self._kinds[kind]
        self._counts[lane] -= 1
        return row

    def kinds(self) -> Iterator[Sequence[Lane]]:
        """The lanes of each kind in their order; views, good until the queue changes."""
        new = self._kinds.keys() - self._lanes.keys()
        urgent = set(self._urgent.values()) if new else set()
        for kind in new:
            ordered = sorted(self._kinds[kind].items(), key=_place_of)
            lanes = [Lane(*place, rows, (kind, place) in urgent) for place, rows in ordered]
            self._lanes[kind] = lanes
        yield from self._lanes.values()

    def has_only(self, kinds: Container[tuple[Hashable, int]]) -> bool:
        """Whether no row waits of another kind: another key and width."""
        return all(kind in kinds for kind in self._kinds)

    def waiting(self, level: int) -> int:
        """How many rows wait at a level, in time or late."""
        return self._counts[level, False] + self._counts[level, True]

    def ahead(self, level: int) -> int:
        """How many rows have their turn before one that joins this level."""
        counts = self._counts.items()
        return sum(count for (other, is_late), count in counts if other <= level and not is_late)

    def _put(self, row: Row, place: _Place) -> None:
        kind = (row.key, row.width)
        self._lanes.pop(kind, None)
        self._kinds.setdefault(kind, {}).setdefault(place, {})[row.number] = row
        self._places[row.number] = (kind, place)
        self._counts[place] += 1


def _place_of(lane: tuple[_Place, Mapping[int, Row]]) -> _Place:
    return lane[0]
