"""The node's memory: who holds how much of the budget, and who makes room for another.

A version reserves what it needs before anything of it is loaded, and gives it back when it is gone;
if it turns out to take more, there has to be room for that too before it answers anybody. A second
engine that is to replace its first is counted by itself while there are both.
If there is too little, versions that may be paged and that nobody is using are asked to leave, the
longest unused first. If that is not enough either, the version is refused with the figures; one
that a caller waits for stays in line instead, as long as somebody it could replace is only busy.
Nobody is busy for ever: a turn in memory ends when somebody has waited for long enough.

Who has to go is decided in `room`. This knows figures only: how a version leaves is its own affair.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from mesh.errors import Unavailable
from services.inference.models.engines import Usage
from services.inference.models.loaded_model import Key
from services.inference.models.room import (
    TURN_S,
    Hold,
    Share,
    could_fit,
    make_room,
    reference,
    refusal,
    turn_ends_s,
)


class DoesNotFit(Unavailable):
    """There is not enough memory; who has it stands in the message."""

    reason = "MEMORY_EXHAUSTED"


@dataclass(slots=True)
class _Holder:
    held_bytes: int
    may_page: Callable[[], bool]
    page_out: Callable[[str], None]
    began_s: float
    came_s: float | None = None
    is_leaving: bool = False
    has_to_go: bool = False

    @property
    def is_settled(self) -> bool:
        return self.came_s is not None

    def turn_ends_s(self, waits_since_s: float) -> float:
        if self.came_s is None:
            return float("inf")
        return turn_ends_s(waits_since_s, self.came_s, self.came_s - self.began_s)


@dataclass(frozen=True, slots=True)
class _Applicant:
    """Who wants memory, and since when if it waits for it."""

    key: Hold
    needs_bytes: int
    may_page: Callable[[], bool]
    waits_since_s: float | None


class Memory:
    """The budget of one node; `budget_bytes` None means that nobody counts."""

    def __init__(
        self,
        budget_bytes: int | None = None,
        usage: Callable[[Key], Usage] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget_bytes = budget_bytes
        self._usage = usage or (lambda _key: Usage())
        self._clock = clock
        self._holders: dict[Hold, _Holder] = {}
        self._line: dict[Hold, _Applicant] = {}
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        held = sum(holder.held_bytes for holder in self._holders.values())
        return f"<Memory {held} of {self.budget_bytes} {sorted(self._holders)}>"

    async def reserve(
        self,
        key: Hold,
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
        since_s = self._clock() if waits else None
        await self._find_room(_Applicant(key, needs_bytes, may_page, since_s))
        self._holders[key] = _Holder(needs_bytes, may_page, page_out, self._clock())

    async def grow(self, key: Hold, held_bytes: int) -> None:
        """The version turns out to take more than was counted; returns when there is room for that.

        It does not wait for those who are busy: two who have all that the other waits for would
        wait for ever.

        Raises:
            DoesNotFit: there is none; it should not stay.
        """
        holder = self._holders[key]
        holder.held_bytes = held_bytes
        await self._find_room(_Applicant(key, held_bytes, holder.may_page, None))

    async def _find_room(self, applicant: _Applicant) -> None:
        if self.budget_bytes is not None:
            with self._in_line(applicant):
                while not self._has_room(applicant, self.budget_bytes):
                    await self._wait(applicant)

    def settle(self, key: Hold, held_bytes: int) -> None:
        """The version is loaded, and this is what it takes."""
        holder = self._holders[key]
        holder.held_bytes, holder.came_s = held_bytes, self._clock()
        self.notify()

    def stay(self, key: Key) -> bool:
        """The version was asked to leave, and is in use again: whether it may stay for now.

        Then others have to go, or to wait.
        """
        holder = self._holders[key]
        if holder.has_to_go:
            return False
        holder.is_leaving = False
        self.notify()
        return True

    def release(self, key: Hold) -> None:
        """The version is gone from memory; again and again, if you like."""
        self._holders.pop(key, None)
        self.notify()

    def notify(self) -> None:
        """Something has changed for those who wait for room, such as a version nobody uses now."""
        self._changed.set()
        self._changed = asyncio.Event()

    @contextmanager
    def _in_line(self, applicant: _Applicant) -> Iterator[None]:
        if applicant.waits_since_s is not None:
            self._line[applicant.key] = applicant
        try:
            yield
        finally:
            self._line.pop(applicant.key, None)
            self.notify()

    def _ahead(self, applicant: _Applicant) -> list[Share]:
        """Those who were in line before: what they wait for counts as theirs."""
        ahead = []
        if applicant.waits_since_s is not None:
            for each in self._line.values():
                if each is applicant:
                    break
                ahead.append(Share(each.key, each.needs_bytes))
        return ahead

    async def _wait(self, applicant: _Applicant) -> None:
        """Until something has changed, or somebody's turn is over."""
        now_s, since_s = self._clock(), applicant.waits_since_s
        ends = [] if since_s is None else [h.turn_ends_s(since_s) for h in self._holders.values()]
        next_s = min((end for end in ends if end > now_s), default=now_s + TURN_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(next_s - now_s):
                await self._changed.wait()

    def _has_room(self, applicant: _Applicant, budget_bytes: int) -> bool:
        """Whether there is room now; if not, somebody has been asked to leave, or has to end work.

        Raises:
            DoesNotFit: waiting is of no use.
        """
        key, needs_bytes = applicant.key, applicant.needs_bytes
        shares = [self._share(*each, applicant) for each in self._holders.items() if each[0] != key]
        ahead = self._ahead(applicant)
        if make_room(needs_bytes, budget_bytes, shares + ahead) == ():
            return True
        # Those on their way out count as gone: nobody else need go for their room.
        going = {other for other, holder in self._holders.items() if holder.is_leaving}
        staying = [share for share in shares if share.key not in going]
        leaving = make_room(needs_bytes, budget_bytes, staying + ahead)
        if leaving is None:
            if applicant.waits_since_s is not None and could_fit(needs_bytes, budget_bytes, shares):
                return False
            raise DoesNotFit(refusal(key, needs_bytes, budget_bytes, shares))
        for share in staying:
            if share.key in leaving:
                self._ask_to_leave(share, f"paged out to make room for {reference(key)}")
        return False

    def _ask_to_leave(self, share: Share, reason: str) -> None:
        holder = self._holders[share.key]
        holder.is_leaving, holder.has_to_go = True, share.is_due
        holder.page_out(reason)

    def _share(self, key: Hold, holder: _Holder, applicant: _Applicant) -> Share:
        usage = self._usage(key[:2])
        # One that is still being loaded is wanted by somebody, and cannot leave before it is there.
        usage = replace(usage, is_idle=usage.is_idle and holder.is_settled)
        is_due = self._is_due(holder, applicant)
        return Share(key, holder.held_bytes, holder.may_page(), usage, is_due)

    def _is_due(self, holder: _Holder, applicant: _Applicant) -> bool:
        since_s = applicant.waits_since_s
        if since_s is None or self._clock() < holder.turn_ends_s(since_s):
            return False
        # For one whose callers have gone meanwhile, nobody has to interrupt his work.
        return self._usage(applicant.key[:2]).waiting > 0 or not applicant.may_page()
