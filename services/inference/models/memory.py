"""The node's memory: who holds how much of the budget, and who makes room for another.

A version reserves what it needs before anything of it is loaded, and gives it back when it is gone.
If there is too little, versions that may be paged and that nobody is using are asked to leave, the
longest unused first. If that is not enough either, the version is refused with the figures; one
that a caller waits for stays in line instead, as long as somebody it could replace is only busy.

Who has to go is a pure function. This knows figures only: how a version leaves is its own affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from mesh.errors import Unavailable
from services.inference.models.table import Key, Usage

_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_STEP = 1000


class DoesNotFit(Unavailable):
    """There is not enough memory; who has it stands in the message."""

    reason = "MEMORY_EXHAUSTED"


@dataclass(frozen=True, slots=True)
class Share:
    """What a version holds of the budget, and whether it could give that up now."""

    key: Key
    held_bytes: int
    may_page: bool = False
    usage: Usage = field(default_factory=Usage)

    @property
    def can_leave(self) -> bool:
        """Whether nobody would miss it just now."""
        return self.may_page and self.usage.is_idle


def make_room(
    needs_bytes: int, budget_bytes: int, shares: Iterable[Share]
) -> tuple[Key, ...] | None:
    """Who has to leave, the longest unused first; None if it is not enough even so."""
    shares = tuple(shares)
    lacking = needs_bytes - (budget_bytes - sum(share.held_bytes for share in shares))
    leaving: list[Key] = []
    for share in sorted(filter(_can_leave, shares), key=lambda share: share.usage.last_used_s):
        if lacking <= 0:
            break
        leaving.append(share.key)
        lacking -= share.held_bytes
    return tuple(leaving) if lacking <= 0 else None


def _can_leave(share: Share) -> bool:
    return share.can_leave and share.held_bytes > 0


def could_fit(needs_bytes: int, budget_bytes: int, shares: Iterable[Share]) -> bool:
    """Whether there were room if all that may be paged were gone."""
    return needs_bytes <= budget_bytes - sum(s.held_bytes for s in shares if not s.may_page)


def refusal(key: Key, needs_bytes: int, budget_bytes: int, shares: Iterable[Share]) -> str:
    """What to tell whoever wants to load a version that does not fit."""
    shares = sorted(shares, key=lambda share: -share.held_bytes)
    free = budget_bytes - sum(share.held_bytes for share in shares)
    held = ", ".join(f"{reference(s.key)} has {format_bytes(s.held_bytes)}" for s in shares)
    return (
        f"{reference(key)} needs {format_bytes(needs_bytes)} of memory, and "
        f"{format_bytes(max(0, free))} of {format_bytes(budget_bytes)} are free"
        + (f": {held}" if held else "")
    )


def reference(key: Key) -> str:
    """A version's name everywhere in the mesh: `minilm@1`."""
    return f"{key[0]}@{key[1]}"


def format_bytes(count: float) -> str:
    """A size for people, of three digits or so."""
    unit = 0
    while count >= _STEP and unit < len(_UNITS) - 1:
        count, unit = count / _STEP, unit + 1
    return f"{count:.3g} {_UNITS[unit]}"


@dataclass(slots=True)
class _Holder:
    held_bytes: int
    may_page: Callable[[], bool]
    page_out: Callable[[str], None]
    is_settled: bool = False
    is_leaving: bool = False


class Memory:
    """The budget of one node; `budget_bytes` None means that nobody counts."""

    def __init__(
        self, budget_bytes: int | None = None, usage: Callable[[Key], Usage] | None = None
    ) -> None:
        self.budget_bytes = budget_bytes
        self._usage = usage or (lambda _key: Usage())
        self._holders: dict[Key, _Holder] = {}
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        held = sum(holder.held_bytes for holder in self._holders.values())
        return f"<Memory {held} of {self.budget_bytes} {sorted(self._holders)}>"

    async def reserve(
        self,
        key: Key,
        needs_bytes: int,
        *,
        may_page: Callable[[], bool],
        page_out: Callable[[str], None],
        waits: bool = False,
    ) -> None:
        """Holds so much for a version; returns when it is there.

        Raises:
            DoesNotFit: it is not, and with `waits`, it could not be if nobody were busy.
        """
        if self.budget_bytes is not None:
            while not self._has_room(key, needs_bytes, self.budget_bytes, waits=waits):
                await self._changed.wait()
        self._holders[key] = _Holder(needs_bytes, may_page, page_out)

    def settle(self, key: Key, held_bytes: int) -> None:
        """The version is loaded, and this is what it takes."""
        holder = self._holders[key]
        holder.held_bytes, holder.is_settled = held_bytes, True
        self.notify()

    def stay(self, key: Key) -> None:
        """The version was asked to leave, and is in use again: others have to go, or to wait."""
        self._holders[key].is_leaving = False
        self.notify()

    def release(self, key: Key) -> None:
        """The version is gone from memory; again and again, if you like."""
        self._holders.pop(key, None)
        self.notify()

    def notify(self) -> None:
        """Something has changed for those who wait for room, such as a version nobody uses now."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _has_room(self, key: Key, needs_bytes: int, budget_bytes: int, *, waits: bool) -> bool:
        """Whether there is room now; if not, somebody has been asked to leave, or has to end work.

        Raises:
            DoesNotFit: waiting is of no use.
        """
        shares = [self._share(*each) for each in self._holders.items() if each[0] != key]
        if make_room(needs_bytes, budget_bytes, shares) == ():
            return True
        # Those on their way out count as gone: nobody else need go for their room.
        going = {other for other, holder in self._holders.items() if holder.is_leaving}
        leaving = make_room(
            needs_bytes, budget_bytes, (share for share in shares if share.key not in going)
        )
        if leaving is None:
            if waits and could_fit(needs_bytes, budget_bytes, shares):
                return False
            raise DoesNotFit(refusal(key, needs_bytes, budget_bytes, shares))
        for other in leaving:
            self._holders[other].is_leaving = True
            self._holders[other].page_out(f"paged out to make room for {reference(key)}")
        return False

    def _share(self, key: Key, holder: _Holder) -> Share:
        usage = self._usage(key)
        # One that is still being loaded is wanted by somebody, and cannot leave before it is there.
        usage = replace(usage, is_idle=usage.is_idle and holder.is_settled)
        return Share(key, holder.held_bytes, holder.may_page(), usage)
