"""Decides what the engine does next: a pure function over the slots and the queue.

The rules:

- Decode runs over slots 0..n-1, so a running sequence above a free slot is first swapped down. A
  new one gets the lowest free slot, unless another holds more of its prompt: what that slot held
  is kept in the one that is given up, with one copy where swapping takes three.
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
from dataclasses import replace

from services.inference.llm.step import (
    SHORTEST_RUN,
    Action,
    Admit,
    Exchange,
    Keep,
    Phase,
    Preempt,
    Prefill,
    Slot,
    State,
    Step,
    Waiting,
)

SMALLEST_CHUNK = 3
"""Any remainder can then be cut into chunks of two tokens or more."""
SMALLEST_COPY = 16
"""What is shorter than this is prefilled again: copying has a price too."""


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
    admission = _lowest(slots, actions, admission, waiting.prompt)
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
    most = max(len(waiting.prompt) - SHORTEST_RUN, 0)
    shared = [min(_shared(slot, waiting.prompt), most) for slot in slots]
    source = max(range(len(slots)), key=lambda i: (shared[i], i in free))
    target = _target(slots, free, source, shared[source])
    if source != target and shared[source] - shared[target] >= SMALLEST_COPY:
        return Admit(waiting.sequence, target, shared[source], source, shared[source])
    return Admit(waiting.sequence, target, shared[target], target, 0)


def _lowest(
    slots: list[Slot], actions: list[Action], admission: Admit, prompt: tuple[int, ...]
) -> Admit:
    """The same in the lowest free slot, if that costs no prefill; what it held goes elsewhere."""
    low = next(i for i, slot in enumerate(slots) if slot.phase is Phase.FREE)
    held = min(_shared(slots[low], prompt), max(len(prompt) - SHORTEST_RUN, 0))
    if low == admission.slot or (not admission.copied and held < admission.reused):
        return admission
    if slots[low].reusable >= SMALLEST_COPY:
        actions.append(Keep(low, admission.slot, slots[low].reusable))
        slots[admission.slot] = slots[low]
    if held >= admission.reused:
        return replace(admission, slot=low, reused=held, source=low, copied=0)
    return replace(admission, slot=low)


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
