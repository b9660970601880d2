"""A backend that computes on another one, and fails or waits when it is told to.

What is above it is real, and so are its results.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mesh.tensor import Array
from services.inference.backends.backend import Backend, Device, Graph, GraphRunner
from services.inference.llm.decoder import Decoder
from services.inference.llm.slot_backend import SlotBackend


@dataclass
class Trouble:
    """What every run raises, if anything, and when runs and openings have to wait.

    Runs that write before position `spares` of a slot succeed nevertheless.
    """

    error: Exception | None = None
    spares: int = 0
    runs: int = 0
    allowed: float = math.inf
    changed: threading.Condition = field(default_factory=threading.Condition)
    may_open: threading.Event = field(default_factory=threading.Event)
    opened: int = 0

    def begin(self, error: Exception) -> None:
        """From now on runs fail, and nothing new opens."""
        self.may_open.clear()
        self.error = error

    def end(self) -> None:
        """All is well."""
        self.error = None
        self.may_open.set()

    def hold(self, *, after: int) -> None:
        """Lets so many runs begin and then none, until `go_on`."""
        with self.changed:
            self.allowed = self.runs + after

    def go_on(self) -> None:
        with self.changed:
            self.allowed = math.inf
            self.changed.notify()

    def check(self, start: int = 0) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.runs < self.allowed)
            self.runs += 1
        if self.error is not None and start >= self.spares:
            raise self.error


class FailingBackend:
    def __init__(self, backend: Backend, trouble: Trouble) -> None:
        self.name = backend.name
        self._backend = backend
        self._trouble = trouble
        trouble.may_open.set()

    def check(self) -> Device:
        return self._backend.check()

    def open_slots(self, decoder: Decoder, slots: int) -> SlotBackend:
        self._open()
        made: Any = _FailingSlots(self._backend.open_slots(decoder, slots), self._trouble)
        return made

    def open_graph(self, graph: Graph) -> GraphRunner:
        self._open()
        made: Any = _FailingGraph(self._backend.open_graph(graph), self._trouble)
        return made

    def _open(self) -> None:
        self._trouble.may_open.wait()
        self._trouble.opened += 1


class _FailingSlots:
    def __init__(self, slots: SlotBackend, trouble: Trouble) -> None:
        self._slots = slots
        self._trouble = trouble

    def __getattr__(self, name: str) -> Any:
        return getattr(self._slots, name)

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Any:
        self._trouble.check(start)
        return self._slots.prefill(slot, tokens, start)

    def decode(self, tokens: Sequence[int], starts: Sequence[int]) -> Any:
        self._trouble.check(max(starts))
        return self._slots.decode(tokens, starts)


class _FailingGraph:
    def __init__(self, runner: GraphRunner, trouble: Trouble) -> None:
        self._runner = runner
        self._trouble = trouble

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        self._trouble.check()
        return self._runner.run(outputs, inputs)
