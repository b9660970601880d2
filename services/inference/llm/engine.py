"""The engine's thread: looks at slots and queue, has the next step planned, and carries it out.

One thread owns the backend, the slot table and every admitted answer, so none of them needs a lock.
The event loop hands answers in through `Intake` and is handed events back, one batch per step;
while it passes them on, the next step is already running with the interpreter's lock released.

A failed run fails the answers that it touched and clears their slots; the others go on.
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
from services.inference.llm.answer import Answer
from services.inference.llm.intake import Intake
from services.inference.llm.plan import (
    Action,
    Admit,
    Exchange,
    Phase,
    Prefill,
    Slot,
    State,
    Step,
    Waiting,
    plan,
)
from services.inference.llm.request import Event, Finished
from services.inference.llm.slot_backend import SlotBackend

log = get_logger(__name__)

Mail: TypeAlias = "list[tuple[Answer, Event | RingmeshError]]"


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
    ) -> None:
        self._backend = backend
        self._intake = intake
        self._chunk_tokens = chunk_tokens
        self._deliver = deliver
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
        """Works until the intake is closed."""
        while True:
            waiting = self._intake.look(may_wait=not self._answers)
            if waiting is None:
                break
            try:
                self._turn(waiting)
            except Exception as error:  # the thread's edge: whatever it was, serving goes on
                log.exception("engine.step_failed", engine=repr(self))
                self._fail_everything(waiting, Internal(f"the engine failed: {error}"))
            self._post()
        self._fail_everything({}, Unavailable("the model is being unloaded"))
        self._mail += [
            (a, Unavailable("the model is being unloaded")) for a in self._intake.leftovers()
        ]
        self._post()

    def _turn(self, waiting: dict[int, Answer]) -> None:
        now = time.monotonic()
        self._drop_running(now)
        self._drop_waiting(waiting, now)
        self._steps += 1
        step = plan(State(tuple(self._slots), self._next(waiting), self._chunk_tokens, self._steps))
        self._slots = list(step.slots)
        self._act(step.actions, waiting)
        self._decode(step)

    def _next(self, waiting: Mapping[int, Answer]) -> tuple[Waiting, ...]:
        """Those whose turn is next, as many as there are free slots."""
        free = sum(slot.phase is Phase.FREE for slot in self._slots)
        numbers = self._intake.first(free) if free and waiting else ()
        # Who came since the look at the queue has to wait for the next.
        return tuple(Waiting(n, waiting[n].task.prompt) for n in numbers if n in waiting)

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

    def _drop_waiting(self, waiting: dict[int, Answer], now: float) -> None:
        gone = [n for n, answer in waiting.items() if answer.is_cancelled or answer.is_late(now)]
        for number in gone:
            answer = waiting.pop(number)
            if not answer.is_cancelled:
                self._mail.append((answer, DeadlineExceeded("the deadline passed in the queue")))
        self._intake.remove(gone)

    def _act(self, actions: Sequence[Action], waiting: Mapping[int, Answer]) -> None:
        for action in actions:
            if isinstance(action, Admit):
                self._intake.take(action.sequence)
                self._answers[action.sequence] = waiting[action.sequence]
        for done, action in enumerate(actions):
            try:
                self._perform(action)
            except BackendFailed as error:
                self._fail_slots(_touched(actions[done:]), error)
                return

    def _perform(self, action: Action) -> None:
        match action:
            case Exchange(low, high, held, 0):
                self._backend.copy(high, low, held)
            case Exchange(low, high, held, kept):
                self._backend.exchange(low, high, max(held, kept))
            case Admit(sequence, slot, reused, source, copied):
                answer = self._answers[sequence]
                self._mail.append((answer, answer.admit(time.time_ns(), reused)))
                if copied:
                    self._backend.copy(source, slot, copied)
            case Prefill(slot, start, end, is_last):
                tokens = self._slots[slot].prompt[start:end]
                logits = self._backend.prefill(slot, tokens, start)
                if is_last:
                    self._accept(slot, logits, batch=1)

    def _decode(self, step: Step) -> None:
        # An action may have failed, and its slots with it.
        decode = [i for i in step.decode if self._slots[i].phase is Phase.DECODE]
        if not decode:
            return
        rows = range(max(decode) + 1)
        tokens = [self._last_token(i) if i in decode else 0 for i in rows]
        try:
            logits = self._backend.decode(tokens, [self._slots[i].held for i in rows])
        except BackendFailed as error:
            self._fail_slots(decode, error)
            return
        for index in decode:
            self._slots[index] = replace(self._slots[index], held=self._slots[index].held + 1)
            self._accept(index, logits[index], batch=len(decode))

    def _last_token(self, index: int) -> int:
        return self._answer(index).last_token

    def _answer(self, index: int) -> Answer:
        number = self._slots[index].sequence
        assert number is not None  # noqa: S101  # the plan gives busy slots a sequence
        return self._answers[number]

    def _accept(self, index: int, logits: NDArray[np.float32], batch: int) -> None:
        answer = self._answer(index)
        events = answer.accept(logits, batch, time.time_ns())
        self._mail += [(answer, event) for event in events]
        if events and isinstance(events[-1], Finished | RingmeshError):
            self._release(index)

    def _release(self, index: int) -> None:
        number = self._slots[index].sequence
        if number is not None:
            del self._answers[number]
        self._slots[index] = self._slots[index].released(self._steps)

    def _fail_slots(self, indices: Iterable[int], error: RingmeshError) -> None:
        for index in indices:
            if self._slots[index].sequence is not None:
                self._mail.append((self._answer(index), error))
                self._release(index)
            self._slots[index] = Slot()
        log.error("engine.run_failed", error=error.message, engine=repr(self))

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


def _touched(actions: Iterable[Action]) -> set[int]:
    """The slots whose contents these actions would have changed."""
    touched: set[int] = set()
    for action in actions:
        match action:
            case Exchange(low, high):
                touched |= {low, high}
            case Admit(slot=slot) | Prefill(slot=slot):
                touched.add(slot)
    return touched
