"""What a step of the engine is decided from and consists of: slots, who waits, and actions.

Plain values. What follows from them is the business of `plan`; carrying it out, of the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

SHORTEST_RUN = 2
"""What a run of one token writes is not reused: see `plan`."""


class Phase(Enum):
    """What a slot is doing."""

    FREE = "free"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot: whose it is, and what it holds.

    `prompt` are the tokens that prefill writes; `held` counts the positions written so far, by
    decode too. Of a free slot, that is what is left of its last sequence. A busy one `may_yield` to
    a sequence of a smaller `priority`.
    """

    phase: Phase = Phase.FREE
    sequence: int | None = None
    prompt: tuple[int, ...] = ()
    held: int = 0
    last_used: int = 0
    priority: int = 0
    may_yield: bool = False

    @property
    def reusable(self) -> int:
        """Positions that another sequence may take over."""
        return min(self.held, len(self.prompt)) if len(self.prompt) >= SHORTEST_RUN else 0

    def advanced(self) -> Slot:
        """The slot with a position more."""
        # Once per token: `dataclasses.replace` takes ten times as long.
        return Slot(
            self.phase,
            self.sequence,
            self.prompt,
            self.held + 1,
            self.last_used,
            self.priority,
            self.may_yield,
        )

    def released(self, step: int) -> Slot:
        """The slot after its sequence has left."""
        return Slot(prompt=self.prompt[: self.reusable], held=self.reusable, last_used=step)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A sequence in the queue."""

    sequence: int
    prompt: tuple[int, ...]
    priority: int = 0
    may_yield: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """All that the decision rests on."""

    slots: tuple[Slot, ...]
    waiting: tuple[Waiting, ...]
    chunk_tokens: int
    step: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """Move a running sequence from slot `high` down to the free slot `low`.

    `held` positions move down; `kept` positions, what the free slot still holds, move up.
    """

    low: int
    high: int
    held: int
    kept: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Copy the first positions of a free slot to another free one, out of a newcomer's way."""

    source: int
    target: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Preempt:
    """Take a running sequence out of its slot and let it wait for another."""

    sequence: int
    slot: int


@dataclass(frozen=True, slots=True)
class Admit:
    """Give a waiting sequence its slot; `copied` positions come from `source`."""

    sequence: int
    slot: int
    reused: int
    source: int
    copied: int


@dataclass(frozen=True, slots=True)
class Prefill:
    """Write prompt tokens [start, end) into a slot."""

    slot: int
    start: int
    end: int
    is_last: bool


Action = Exchange | Keep | Preempt | Admit | Prefill


@dataclass(frozen=True, slots=True)
class Step:
    """What to do, in order, then which slots decode; `slots` is the table after the actions."""

    actions: tuple[Action, ...]
    decode: tuple[int, ...]
    slots: tuple[Slot, ...]

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.actions and not self.decode

    @property
    def rows(self) -> int:
        """The rows of the decode run: up to the highest decoding slot."""
        return max(self.decode, default=-1) + 1
