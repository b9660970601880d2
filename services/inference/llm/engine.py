"""The engine's thread: looks at slots and queue, has the next step planned, and carries it out.

One thread owns the backend, the slot table and every admitted answer, so none of them needs a lock.
The event loop hands answers in through `Intake` and is handed events back, one batch per step;
while it passes them on, the next step is already running with the interpreter's lock released.

A failed run fails the answers that it concerned and clears their slots; the others go on. An engine
that is broken ends: those who have begun are told so that they may go on elsewhere, those who wait
are refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mesh.cores import CoreWatch
from mesh.errors import DeadlineExceeded, Internal, RingmeshError, Unavailable
from mesh.logs import get_logger
from services.inference.backends.backend import BackendFailed
from services.inference.backends.health import EngineBroken, EngineHealth
from services.inference.llm.answer import Answer
from services.inference.llm.intake import Intake
from services.inference.llm.plan import plan
from services.inference.llm.runs import EngineMeter, Runs
from services.inference.llm.slot_backend import SlotBackend
from services.inference.llm.slot_table import Mail, SlotTable
from services.inference.llm.step import (
    Action,
    Admit,
    Exchange,
    Keep,
    Phase,
    Preempt,
    Prefill,
    State,
    Waiting,
)

log = get_logger(__name__)

UNLOADED = "the model is being unloaded"


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How busy the engine is."""

    slots: int
    running: int
    waiting: int


class Engine:
    """Continuous batching over a backend's slots."""

    def __init__(
        self,
        backend: SlotBackend,
        intake: Intake,
        *,
        chunk_tokens: int,
        deliver: Callable[[Mail], None],
        on_broken: Callable[[str], None],
        meter: EngineMeter,
        keep_off: Callable[[int], None] | None,
    ) -> None:
        self._health = EngineHealth()
        self._runs = Runs(backend, self._health, meter)
        self._intake = intake
        self._chunk_tokens = chunk_tokens
        self._deliver = deliver
        self._on_broken = on_broken
        self._meter = meter
        self._core = None if keep_off is None else CoreWatch(keep_off)
        self._table = SlotTable(backend.slots)
        self._company: tuple[int, ...] = ()
        """The slots that decode for as long as nobody comes or goes."""
        self._steps = 0

    def __repr__(self) -> str:
        return f"<Engine step={self._steps} {self._table!r} waiting={len(self._intake)}>"

    @property
    def occupancy(self) -> Occupancy:
        """How busy it is; a glance from another thread."""
        return Occupancy(len(self._table.slots), len(self._table.answers), len(self._intake))

    def run(self) -> None:
        """Works until the intake is closed or the engine is broken."""
        try:
            self._work()
        except EngineBroken as error:
            log.exception("engine.broken", engine=repr(self))
            self._end(error)
            self._on_broken(error.message)
        else:
            self._end(Unavailable(UNLOADED))

    def _work(self) -> None:
        while (waiting := self._intake.look(may_wait=not self._table.answers)) is not None:
            try:
                self._turn(waiting)
            except EngineBroken:
                raise
            except Exception as error:  # the thread's edge: whatever it was, serving goes on
                log.exception("engine.step_failed", engine=repr(self))
                self._intake.remove(waiting)
                self._table.fail_all(waiting, Internal(f"the engine failed: {error}"))
                self._health.fail(error)
            self._post()

    def _end(self, error: RingmeshError) -> None:
        self._intake.close(error.message)
        self._table.fail_all(self._intake.clear(), error)
        self._post()

    def _turn(self, waiting: Mapping[int, Answer]) -> None:
        if self._core is not None:
            self._core.look()
        now = time.monotonic()
        self._table.drop(now, self._steps)
        kept = self._drop_waiting(waiting, now) if waiting else {}
        self._steps += 1
        if kept or self._table.has_left or not self._company:
            self._company = self._rearrange(kept)
        else:
            self._decode(self._company)

    def _rearrange(self, waiting: Mapping[int, Answer]) -> tuple[int, ...]:
        """A step by plan; the company, if it is to stay as it is."""
        self._table.has_left = False
        queue = self._next(waiting)
        step = plan(State(tuple(self._table.slots), queue, self._chunk_tokens, self._steps))
        self._table.slots = list(step.slots)
        self._move(step.actions, waiting)
        self._act(step.actions)
        self._decode(step.decode)
        return () if step.actions else step.decode

    def _drop_waiting(self, waiting: Mapping[int, Answer], now: float) -> dict[int, Answer]:
        """Those that still wait."""
        gone = [n for n, answer in waiting.items() if answer.is_cancelled or answer.is_late(now)]
        self._table.mail += [
            (waiting[number], DeadlineExceeded("the deadline passed in the queue"))
            for number in gone
            if not waiting[number].is_cancelled
        ]
        self._intake.remove(gone)
        return {number: answer for number, answer in waiting.items() if number not in gone}

    def _next(self, waiting: Mapping[int, Answer]) -> tuple[Waiting, ...]:
        """Those whose turn is next, as many as may find a slot."""
        if not waiting:
            return ()
        lowest = max(slot.priority for slot in self._table.slots)
        may_preempt = any(answer.task.priority < lowest for answer in waiting.values())
        numbers = self._intake.first(max(self._table.free, int(may_preempt)))
        # Who came since the look at the queue has to wait for the next.
        return tuple(_waiting(n, waiting[n]) for n in numbers if n in waiting)

    def _move(self, actions: Sequence[Action], waiting: Mapping[int, Answer]) -> None:
        """Out of the queue and into slots, and back."""
        for action in actions:
            match action:
                case Admit(sequence=sequence):
                    self._intake.take(sequence)
                    self._table.answers[sequence] = waiting[sequence]
                case Preempt(sequence=sequence):
                    answer = self._table.answers.pop(sequence)
                    answer.give_way()
                    self._intake.put_back(sequence, answer)
                    self._meter.count_preemption()

    def _act(self, actions: Sequence[Action]) -> None:
        spoilt: set[int] = set()  # slots that do not hold what the plan relies on
        for action in actions:
            try:
                if spoilt.isdisjoint(_reads(action)):
                    self._perform(action)
                    continue
                self._withdraw(action)
            except BackendFailed as error:
                concerned = _concerned(action)
                if concerned is not None:
                    self._table.fail(concerned, error)
                self._table.forget(_writes(action))
            spoilt |= _writes(action)

    def _perform(self, action: Action) -> None:
        match action:
            case Exchange(low, high, held, 0):
                self._runs.copy(high, low, held)
            case Exchange(low, high, held, kept):
                self._runs.exchange(low, high, max(held, kept))
            case Keep(source, target, kept):
                self._runs.copy(source, target, kept)
            case Admit(sequence, slot, reused, source, copied):
                if copied:
                    self._runs.copy(source, slot, copied)
                self._table.begin(sequence, reused)
            case Prefill(slot, start, end, is_last) if self._table.slots[slot].sequence is not None:
                tokens = self._table.slots[slot].prompt[start:end]
                logits = self._runs.prefill(slot, tokens, start)
                if is_last:
                    self._table.accept(slot, logits, batch=1, step=self._steps)

    def _withdraw(self, action: Action) -> None:
        """The slot that it builds upon is lost; who was to have it waits for another."""
        if isinstance(action, Admit):
            self._intake.put_back(action.sequence, self._table.withdraw(action.slot))
        elif isinstance(action, Keep):
            self._table.forget(_writes(action))

    def _decode(self, company: Sequence[int]) -> None:
        # An action may have failed, and its slot with it.
        slots = self._table.slots
        decode = [i for i in company if slots[i].phase is Phase.DECODE]
        if not decode:
            return
        rows = range(max(decode) + 1)
        tokens = [self._table.answer(i).last_token if i in decode else 0 for i in rows]
        starts = [slots[i].held for i in rows]
        for index, outcome in self._runs.decode(tokens, starts, decode):
            if isinstance(outcome, BackendFailed):
                self._table.fail(index, outcome)
                continue
            self._table.advance(index)
            self._table.accept(index, outcome, batch=len(decode), step=self._steps)

    def _post(self) -> None:
        mail, self._table.mail = self._table.mail, []
        if mail:
            self._deliver(mail)


def _waiting(number: int, answer: Answer) -> Waiting:
    task = answer.task
    return Waiting(number, task.prompt, task.priority, may_yield=not answer.has_yielded)


def _reads(action: Action) -> set[int]:
    """The slots whose contents it builds upon."""
    match action:
        case Exchange(low, high):
            return {low, high}
        case Keep(source=source):
            return {source}
        case Admit(source=source, reused=reused) if reused:
            return {source}
        case _:
            return set()


def _writes(action: Action) -> set[int]:
    """The slots that hold something else after it."""
    match action:
        case Exchange(low, high):
            return {low, high}
        case Keep(target=target):
            return {target}
        case Admit(slot=slot) | Prefill(slot=slot):
            return {slot}
        case _:
            return set()


def _concerned(action: Action) -> int | None:
    """The slot of the answer that it is done for."""
    match action:
        case Exchange(low=slot) | Admit(slot=slot) | Prefill(slot=slot):
            return slot
        case _:
            return None
