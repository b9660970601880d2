"""Who makes room for whom in a node's memory, and when a turn in it ends: pure.

Those leave that may be paged and that nobody is using, the longest unused first; then those that
are busy and have had their turn. What cannot be done is told with the figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from services.inference.models.engines import Usage

TURN_S = 2.0
"""A busy version goes when another has waited so long, and it has been there for so long itself, or
for as long as its coming took: no more than half of the time goes into loading."""
Hold = tuple[str, int] | tuple[str, int, str]
"""Under what name memory is held: a model and a version, and which engine if not the first."""

_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_STEP = 1000


@dataclass(frozen=True, slots=True)
class Share:
    """What a version holds of the budget, and whether it could give that up now."""

    key: Hold
    held_bytes: int
    may_page: bool = False
    usage: Usage = field(default_factory=Usage)
    is_due: bool = False
    """Whether its turn is over, so that it goes although it is busy."""

    @property
    def can_leave(self) -> bool:
        """Whether nobody would miss it just now, or has to."""
        return self.may_page and (self.usage.is_idle or self.is_due)


def make_room(
    needs_bytes: int, budget_bytes: int, shares: Iterable[Share]
) -> tuple[Hold, ...] | None:
    """Who has to leave, the longest unused first and the busy last; None if it is not enough."""
    shares = tuple(shares)
    lacking = needs_bytes - (budget_bytes - sum(share.held_bytes for share in shares))
    leaving: list[Hold] = []
    for share in sorted(filter(_can_leave, shares), key=_order):
        if lacking <= 0:
            break
        leaving.append(share.key)
        lacking -= share.held_bytes
    return tuple(leaving) if lacking <= 0 else None


def _can_leave(share: Share) -> bool:
    return share.can_leave and share.held_bytes > 0


def _order(share: Share) -> tuple[bool, float]:
    return not share.usage.is_idle, share.usage.last_used_s


def turn_ends_s(waits_since_s: float, came_s: float, took_s: float) -> float:
    """When a version that came so long ago has to go for one that has waited so long."""
    return max(waits_since_s + TURN_S, came_s + max(TURN_S, took_s))


def could_fit(needs_bytes: int, budget_bytes: int, shares: Iterable[Share]) -> bool:
    """Whether there were room if all that may be paged were gone."""
    return needs_bytes <= budget_bytes - sum(s.held_bytes for s in shares if not s.may_page)


def refusal(key: Hold, needs_bytes: int, budget_bytes: int, shares: Iterable[Share]) -> str:
    """What to tell whoever wants to load a version that does not fit."""
    shares = sorted(shares, key=lambda share: -share.held_bytes)
    free = budget_bytes - sum(share.held_bytes for share in shares)
    held = ", ".join(f"{reference(s.key)} has {format_bytes(s.held_bytes)}" for s in shares)
    return (
        f"{reference(key)} needs {format_bytes(needs_bytes)} of memory, and "
        f"{format_bytes(max(0, free))} of {format_bytes(budget_bytes)} are free"
        + (f": {held}" if held else "")
    )


def reference(hold: Hold) -> str:
    """A version's name everywhere in the mesh, `minilm@1`, and which engine of it is meant."""
    return " ".join((f"{hold[0]}@{hold[1]}", *hold[2:]))


def format_bytes(count: float) -> str:
    """A size for people, of three digits or so."""
    unit = 0
    while count >= _STEP and unit < len(_UNITS) - 1:
        count, unit = count / _STEP, unit + 1
    return f"{count:.3g} {_UNITS[unit]}"
