"""Decides what the engine does next: a pure function over the slots and the queue.

The rules:

- Decode runs over slots 0..n-1, so a running sequence above a free slot is first swapped down.
- A step carries at most one chunk of prefill tokens beside its decode: a long prompt delays the
  running streams by one chunk per token and no more. The queue is taken in the order in which it is
  given; short prompts share a chunk. While a long one is read, those that fit into half of a chunk
  pass it, as long as a slot is left for each that they pass.
- If no slot is free, one that waits takes that of an answer of lower priority: the lowest there is,
  and of those the one that loses least. It happens to an answer once, so all come to their end.
- A free slot keeps what it held. A new prompt takes over the free slot whose contents it continues,
  or copies a shared beginning from whichever slot has it, running or not; otherwise the slot
  longest unused is given up.
- Only positions that a prefill wrote are reused, and no chunk has a single token (unless that is
  the whole prompt). A run of one token goes through another kernel whose last bits differ; with
  these two rules an answer depends on its request alone, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

SMALLEST_CHUNK = 3
"""Any remainder can then be cut into chunks of two tokens or more."""
SMALLEST_COPY = 16
"""A shared beginning shorter than this is prefilled again: copying has a price too."""
_SHORTEST_RUN = 2


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
        return min(self.held, len(self.prompt)) if len(self.prompt) >= _SHORTEST_RUN else 0

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


Action = Exchange | Preempt | Admit | Prefill


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


def plan(state: State) -> Step:
    """The next step."""
    slots = list(state.slots)
    actions: list[Action] = []
    _compact(slots, actions)
    _make_way(slots, actions, state)
    decode = tuple(i for i, slot in enumerate(slots) if slot.phase is Phase.DECODE)
    _fill(slots, actions, state)
    return Step(tuple(actions), decode, tuple(slots))


def _compact(slots: list[Slot], actions: list[Action]) -> None:
    """Moves decoding sequences down into free slots below them."""
    low = 0
    for high in range(len(slots) - 1, -1, -1):
        if slots[high].phase is not Phase.DECODE:
            continue
        while low < high and slots[low].phase is not Phase.FREE:
            low += 1
        if low >= high:
            return
        actions.append(Exchange(low, high, slots[high].held, slots[low].reusable))
        slots[low], slots[high] = slots[high], slots[low]


def _make_way(slots: list[Slot], actions: list[Action], state: State) -> None:
    """Frees a slot for the first in the queue, if that is more urgent than a running answer."""
    if not state.waiting or any(slot.phase is not Phase.DECODE for slot in slots):
        return
    urgent = state.waiting[0].priority
    lesser = [i for i, slot in enumerate(slots) if slot.may_yield and slot.priority > urgent]
    if not lesser:
        return
    index = max(lesser, key=lambda i: (slots[i].priority, -slots[i].held, i))
    sequence = slots[index].sequence
    assert sequence is not None  # noqa: S101  # a decoding slot has one
    actions.append(Preempt(sequence, index))
    slots[index] = slots[index].released(state.step)


def _fill(slots: list[Slot], actions: list[Action], state: State) -> None:
    """Spends the step's prefill tokens, admitting from the queue as they last."""
    budget = left = max(state.chunk_tokens, SMALLEST_CHUNK)
    waiting = list(state.waiting)
    index = _prefilling(slots)
    if index is not None:
        left -= _pass(
            slots, actions, waiting, state.step, min(budget // 2, budget - SMALLEST_CHUNK)
        )
    while left > 0:
        if index is None:
            # A second prompt joins a chunk only whole: a few tokens cost nearly as much as many.
            room = None if left == budget else left
            index = _admit(slots, actions, waiting.pop(0), state.step, room) if waiting else None
            if index is None:
                return
        left -= _read(slots, actions, index, left)
        if slots[index].phase is Phase.PREFILL:
            return
        index = None


def _pass(
    slots: list[Slot], actions: list[Action], waiting: list[Waiting], step: int, room: int
) -> int:
    """Reads the short prompts that need not wait for a long one; how many tokens they have."""
    left = room
    spare = sum(slot.phase is Phase.FREE for slot in slots)
    for one in tuple(waiting):
        if spare == 0 or left == 0:
            break
        spare -= 1  # for this one, or kept for it
        index = _admit(slots, actions, one, step, left)
        if index is not None:
            waiting.remove(one)
            left -= _read(slots, actions, index, left)
    return room - left


def _read(slots: list[Slot], actions: list[Action], index: int, most: int) -> int:
    """Reads on in a slot's prompt; how many tokens."""
    chunk = _chunk(slots[index], index, most)
    actions.append(chunk)
    phase = Phase.DECODE if chunk.is_last else Phase.PREFILL
    slots[index] = replace(slots[index], held=chunk.end, phase=phase)
    return chunk.end - chunk.start


def _admit(
    slots: list[Slot], actions: list[Action], waiting: Waiting, step: int, room: int | None
) -> int | None:
    """Gives it a slot, if one is free and the rest of its prompt has room."""
    admission = _admission(slots, waiting)
    if admission is None:
        return None
    if room is not None and len(waiting.prompt) - admission.reused > room:
        return None
    actions.append(admission)
    slots[admission.slot] = Slot(
        Phase.PREFILL,
        waiting.sequence,
        waiting.prompt,
        held=admission.reused,
        last_used=step,
        priority=waiting.priority,
        may_yield=waiting.may_yield,
    )
    return admission.slot


def _prefilling(slots: Sequence[Slot]) -> int | None:
    return next((i for i, slot in enumerate(slots) if slot.phase is Phase.PREFILL), None)


def _chunk(slot: Slot, index: int, budget: int) -> Prefill:
    rest = len(slot.prompt) - slot.held
    size = min(rest, budget)
    if rest - size == 1:
        size -= 1
    end = slot.held + size
    return Prefill(index, slot.held, end, is_last=end == len(slot.prompt))


def _admission(slots: Sequence[Slot], waiting: Waiting) -> Admit | None:
    """The slot for a new sequence, and where its beginning comes from; None if none is free."""
    free = [i for i, slot in enumerate(slots) if slot.phase is Phase.FREE]
    if not free:
        return None
    # At least two tokens are left to prefill: their run makes the first logits.
    most = max(len(waiting.prompt) - _SHORTEST_RUN, 0)
    shared = [min(_shared(slot, waiting.prompt), most) for slot in slots]
    source = max(range(len(slots)), key=lambda i: (shared[i], i in free))
    target = _target(slots, free, source, shared[source])
    if source != target and shared[source] - shared[target] >= SMALLEST_COPY:
        return Admit(waiting.sequence, target, shared[source], source, shared[source])
    return Admit(waiting.sequence, target, shared[target], target, 0)


def _target(slots: Sequence[Slot], free: Sequence[int], source: int, shared: int) -> int:
    """The free slot that is continued, or else the one that is missed least."""
    if source in free and shared > 0 and 2 * shared >= slots[source].reusable:
        return source
    return min(free, key=lambda i: (slots[i].reusable > 0, slots[i].last_used, i))


def _shared(slot: Slot, prompt: tuple[int, ...]) -> int:
    """How many of the slot's reusable positions the prompt begins with."""
    low, high = 0, min(slot.reusable, len(prompt))
    if slot.prompt[:high] == prompt[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if slot.prompt[low:middle] == prompt[low:middle]:
            low = middle
        else:
            high = middle
    return low
