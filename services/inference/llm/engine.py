"""The engine's thread: looks at slots and queue, has the next step planned, and carries it out.

One thread owns the backend, the slot table and every admitted answer, so none of them needs a lock.
The event loop hands answers in through `Intake` and is handed events back, one batch per step;
while it passes them on, the next step is already running with the interpreter's lock released.

A failed run fails the answers that it concerned and clears their slots; the others go on. So does
whatever goes wrong with one answer while it takes its token. An engine that is broken ends: those
who have begun are told so that they may go on elsewhere, those who wait are refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mesh.errors import DeadlineExceeded, Internal, RingmeshError, Unavailable
from mesh.logs import get_logger
from services.inference.backends.backend import BackendFailed
from services.inference.backends.health import EngineBroken, EngineHealth
from services.inference.llm.answer import Answer
from services.inference.llm.intake import Intake
from services.inference.llm.plan import (
    Action,
    Admit,
    Exchange,
    Phase,
    Preempt,
    Prefill,
    Slot,
    State,
    Step,
    Waiting,
    plan,
)
from services.inference.llm.request import Event, Finished
from services.inference.llm.runs import EngineMeter, Runs
from services.inference.llm.slot_backend import SlotBackend

log = get_logger(__name__)

Mail: TypeAlias = "list[tuple[Answer, Event | RingmeshError]]"

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
    ) -> None:
        self._health = EngineHealth()
        self._runs = Runs(backend, self._health, meter)
        self._intake = intake
        self._chunk_tokens = chunk_tokens
        self._deliver = deliver
        self._on_broken = on_broken
        self._meter = meter
        self._slots = [Slot()] * backend.slots
        self._answers: dict[int, Answer] = {}
        self._steps = 0
        self._mail: Mail = []

    def __repr__(self) -> str:
        phases = "".join(slot.phase.name[0] for slot in self._slots)
        return f"<Engine step={self._steps} slots={phases} waiting={len(self._intake)}>"

    @property
    def occupancy(self) -> Occupancy:
        """How busy it is; a glance from another thread."""
        return Occupancy(len(self._slots), len(self._answers), len(self._intake))

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
        while (waiting := self._intake.look(may_wait=not self._answers)) is not None:
            try:
                self._turn(waiting)
            except EngineBroken:
                raise
            except Exception as error:  # the thread's edge: whatever it was, serving goes on
                log.exception("engine.step_failed", engine=repr(self))
                self._fail_everything(waiting, Internal(f"the engine failed: {error}"))
                self._health.fail(error)
            self._post()

    def _end(self, error: RingmeshError) -> None:
        self._intake.close(error.message)
        self._fail_everything({}, error)
        self._mail += [(answer, error) for answer in self._intake.clear()]
        self._post()

    def _turn(self, waiting: Mapping[int, Answer]) -> None:
        now = time.monotonic()
        self._drop_running(now)
        kept = self._drop_waiting(waiting, now)
        self._steps += 1
        queue = self._next(kept)
        step = plan(State(tuple(self._slots), queue, self._chunk_tokens, self._steps))
        self._slots = list(step.slots)
        self._move(step.actions, kept)
        self._act(step.actions)
        self._decode(step)

    def _drop_running(self, now: float) -> None:
        for index, slot in enumerate(self._slots):
            if slot.sequence is None:
                continue
            answer = self._answers[slot.sequence]
            if answer.is_cancelled:
                self._release(index)
            elif answer.is_late(now):
                self._mail.append(
                    (answer, DeadlineExceeded("the deadline passed while generating"))
                )
                self._release(index)

    def _drop_waiting(self, waiting: Mapping[int, Answer], now: float) -> dict[int, Answer]:
        """Those that still wait."""
        gone = [n for n, answer in waiting.items() if answer.is_cancelled or answer.is_late(now)]
        self._mail += [
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
        free = sum(slot.phase is Phase.FREE for slot in self._slots)
        lowest = max(slot.priority for slot in self._slots)
        may_preempt = any(answer.task.priority < lowest for answer in waiting.values())
        numbers = self._intake.first(max(free, int(may_preempt)))
        # Who came since the look at the queue has to wait for the next.
        return tuple(_waiting(n, waiting[n]) for n in numbers if n in waiting)

    def _move(self, actions: Sequence[Action], waiting: Mapping[int, Answer]) -> None:
        """Out of the queue and into slots, and back."""
        for action in actions:
            match action:
                case Admit(sequence=sequence):
                    self._intake.take(sequence)
                    self._answers[sequence] = waiting[sequence]
                case Preempt(sequence=sequence):
                    self._put_back(sequence).give_way()
                    self._meter.count_preemption()

    def _put_back(self, sequence: int) -> Answer:
        answer = self._answers.pop(sequence)
        self._intake.put_back(sequence, answer)
        return answer

    def _act(self, actions: Sequence[Action]) -> None:
        spoilt: set[int] = set()  # slots that do not hold what the plan relies on
        for action in actions:
            try:
                if spoilt.isdisjoint(_reads(action)):
                    self._perform(action)
                    continue
                self._withdraw(action)
            except BackendFailed as error:
                self._fail(_concerned(action), error)
                self._forget(_writes(action))
            spoilt |= _writes(action)

    def _perform(self, action: Action) -> None:
        match action:
            case Exchange(low, high, held, 0):
                self._runs.copy(high, low, held)
            case Exchange(low, high, held, kept):
                self._runs.exchange(low, high, max(held, kept))
            case Admit(sequence, slot, reused, source, copied):
                if copied:
                    self._runs.copy(source, slot, copied)
                self._begin(self._answers[sequence], reused)
            case Prefill(slot, start, end, is_last) if self._slots[slot].sequence is not None:
                tokens = self._slots[slot].prompt[start:end]
                logits = self._runs.prefill(slot, tokens, start)
                if is_last:
                    self._accept(slot, logits, batch=1)

    def _begin(self, answer: Answer, reused: int) -> None:
        if not answer.has_yielded:
            self._mail.append((answer, answer.admit(time.time_ns(), reused)))

    def _forget(self, indices: Iterable[int]) -> None:
        """What these slots hold is of no use to anybody."""
        for index in indices:
            if self._slots[index].sequence is None:
                self._slots[index] = Slot()

    def _withdraw(self, action: Action) -> None:
        """The slot that it builds upon is lost; who was to have it waits for another."""
        if isinstance(action, Admit):
            self._put_back(action.sequence)
            self._slots[action.slot] = Slot()

    def _decode(self, step: Step) -> None:
        # An action may have failed, and its slot with it.
        decode = [i for i in step.decode if self._slots[i].phase is Phase.DECODE]
        if not decode:
            return
        rows = range(max(decode) + 1)
        tokens = [self._answer(i).last_token if i in decode else 0 for i in rows]
        starts = [self._slots[i].held for i in rows]
        for index, outcome in self._runs.decode(tokens, starts, decode):
            if isinstance(outcome, BackendFailed):
                self._fail(index, outcome)
                continue
            self._slots[index] = replace(self._slots[index], held=starts[index] + 1)
            self._accept(index, outcome, batch=len(decode))

    def _answer(self, index: int) -> Answer:
        number = self._slots[index].sequence
        assert number is not None  # noqa: S101  # the plan gives busy slots a sequence
        return self._answers[number]

    def _accept(self, index: int, logits: NDArray[np.float32], batch: int) -> None:
        answer = self._answer(index)
        try:
            events = answer.accept(logits, batch, time.time_ns())
        except Exception:  # one caller's answer in everybody's thread: it fails alone
            log.exception("engine.answer_failed", slot=index, engine=repr(self))
            self._fail(index, Internal("the answer failed; the node's log has the details"))
            return
        self._mail += [(answer, event) for event in events]
        if events and isinstance(events[-1], Finished | RingmeshError):
            self._release(index)

    def _release(self, index: int) -> None:
        number = self._slots[index].sequence
        if number is not None:
            del self._answers[number]
        self._slots[index] = self._slots[index].released(self._steps)

    def _fail(self, index: int, error: RingmeshError) -> None:
        """Ends the answer in a slot; what the slot holds is of no use."""
        log.error("engine.answer_lost", slot=index, error=error.message, engine=repr(self))
        self._mail.append((self._answer(index), error))
        self._release(index)
        self._slots[index] = Slot()

    def _fail_everything(self, waiting: Mapping[int, Answer], error: RingmeshError) -> None:
        answers = {**waiting, **self._answers}
        self._intake.remove(answers)
        self._mail += [(answer, error) for answer in answers.values()]
        self._answers.clear()
        self._slots = [Slot()] * len(self._slots)

    def _post(self) -> None:
        if self._mail:
            mail, self._mail = self._mail, []
            self._deliver(mail)


def _waiting(number: int, answer: Answer) -> Waiting:
    task = answer.task
    return Waiting(number, task.prompt, task.priority, may_yield=not answer.has_yielded)


def _reads(action: Action) -> set[int]:
    """The slots whose contents it builds upon."""
    match action:
        case Exchange(low, high):
            return {low, high}
        case Admit(source=source, reused=reused) if reused:
            return {source}
        case _:
            return set()


def _writes(action: Action) -> set[int]:
    """The slots that hold something else after it."""
    match action:
        case Exchange(low, high):
            return {low, high}
        case Admit(slot=slot) | Prefill(slot=slot):
            return {slot}
        case _:
            return set()


def _concerned(action: Action) -> int:
    """The slot of the answer that it is done for."""
    return action.low if isinstance(action, Exchange) else action.slot
