"""Who sits in which slot, and what is to be told to whom.

The table belongs to the engine's thread. An answer that is done, fails or leaves goes from it at
once; what its slot holds stays, for others to go on from, unless a run has spoilt it. It decides
nothing about who comes next, and runs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mesh.errors import DeadlineExceeded, Internal, RingmeshError
from mesh.logs import get_logger
from services.inference.llm.answer import Answer
from services.inference.llm.request import Event, Finished
from services.inference.llm.step import Phase, Slot

Mail: TypeAlias = "list[tuple[Answer, Event | RingmeshError]]"

_log = get_logger(__name__)


class SlotTable:
    """The slots of an engine with their answers."""

    def __init__(self, size: int) -> None:
        self.slots = [Slot()] * size
        self.answers: dict[int, Answer] = {}
        self.has_left = False
        """Whether somebody has left since this was last looked at."""
        self.mail: Mail = []

    def __repr__(self) -> str:
        return f"<SlotTable {''.join(slot.phase.name[0] for slot in self.slots)}>"

    @property
    def free(self) -> int:
        """How many slots nobody has."""
        return sum(slot.phase is Phase.FREE for slot in self.slots)

    def answer(self, index: int) -> Answer:
        """Whose slot it is."""
        number = self.slots[index].sequence
        assert number is not None  # noqa: S101  # the plan gives busy slots a sequence
        return self.answers[number]

    def begin(self, sequence: int, reused: int) -> None:
        """An answer has its slot; told once, however often it has one."""
        answer = self.answers[sequence]
        if not answer.has_yielded:
            self.mail.append((answer, answer.admit(time.time_ns(), reused)))

    def accept(self, index: int, logits: NDArray[np.float32], *, batch: int, step: int) -> None:
        """The answer in a slot takes its next token."""
        answer = self.answer(index)
        try:
            events = answer.accept(logits, batch, time.time_ns())
        except Exception:  # noqa: BLE001 - one caller's answer in everybody's thread: it fails alone
            _log.exception("engine.answer_failed", slot=index, table=repr(self))
            self.fail(index, Internal("the answer failed; the node's log has the details"))
            return
        self.mail += [(answer, event) for event in events]
        if events and isinstance(events[-1], Finished | RingmeshError):
            self.release(index, step)

    def advance(self, index: int) -> None:
        """Its slot holds a position more."""
        self.slots[index] = self.slots[index].advanced()

    def drop(self, now_s: float, step: int) -> None:
        """Lets those go who have left, and those for whom it is too late."""
        for index, slot in enumerate(self.slots):
            if slot.sequence is None:
                continue
            answer = self.answers[slot.sequence]
            if answer.is_late(now_s) and not answer.is_cancelled:
                late = DeadlineExceeded("the deadline passed while generating")
                self.mail.append((answer, late))
            if answer.is_late(now_s) or answer.is_cancelled:
                self.release(index, step)

    def release(self, index: int, step: int) -> None:
        """The answer leaves its slot; what that holds may be of use to others."""
        number = self.slots[index].sequence
        if number is not None:
            del self.answers[number]
        self.slots[index] = self.slots[index].released(step)
        self.has_left = True

    def fail(self, index: int, error: RingmeshError) -> None:
        """Ends the answer in a slot; what the slot holds is of no use."""
        _log.error("engine.answer_lost", slot=index, error=error.message, table=repr(self))
        number = self.slots[index].sequence
        if number is not None:
            self.mail.append((self.answers.pop(number), error))
        self.slots[index] = Slot()
        self.has_left = True

    def forget(self, indices: Iterable[int]) -> None:
        """What these slots hold is of no use to anybody who comes."""
        for index in indices:
            if self.slots[index].sequence is None:
                self.slots[index] = Slot()

    def withdraw(self, index: int) -> Answer:
        """Takes an answer out before it has begun; its slot is empty."""
        answer = self.answer(index)
        self.release(index, step=0)
        self.slots[index] = Slot()
        return answer

    def fail_all(self, others: Mapping[int, Answer], error: RingmeshError) -> None:
        """Ends every answer here, and these."""
        self.mail += [(answer, error) for answer in {**others, **self.answers}.values()]
        self.answers = {}
        self.slots = [Slot()] * len(self.slots)
        self.has_left = True
