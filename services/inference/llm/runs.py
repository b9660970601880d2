"""Runs on the backend: a failed one is repeated, so that as little as possible fails with it.

Repeating is safe: a run writes only behind what its slots hold.
A decode that fails is repeated row by row. What made it fail may lie with one row, which then fails
alone; or with the size of the batch, and then none does. A decode of one row is a prefill of one
token: see the promises of `SlotBackend`. Where nothing else was computed, a known run tells a row
that cannot be from an engine that can do no more: only the latter may be tried on another node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from mesh.logs import get_logger
from services.inference.backends.backend import BackendFailed
from services.inference.backends.health import EngineHealth
from services.inference.llm.slot_backend import SlotBackend

KNOWN_TOKENS = (0,)
"""A prompt that any decoder reads."""

R = TypeVar("R")
Logits: TypeAlias = "NDArray[np.float32]"

_log = get_logger(__name__)


class EngineMeter(Protocol):
    """Counts what an engine does beside answering."""

    def count_failed_run(self) -> None:
        """A run has failed."""

    def count_preemption(self) -> None:
        """An answer has given up its slot for now."""


class Unmetered:
    """Counts nothing."""

    def count_failed_run(self) -> None:
        """Lets it be."""

    def count_preemption(self) -> None:
        """Lets it be."""


UNMETERED = Unmetered()


class Runs:
    """What the engine has its backend do.

    All methods raise:
        BackendFailed: it cannot be done; the slots concerned hold nothing of use.
        EngineBroken: nothing can be done any more.
    """

    def __init__(self, backend: SlotBackend, health: EngineHealth, meter: EngineMeter) -> None:
        self._backend = backend
        self._health = health
        self._meter = meter

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> Logits:
        """Writes tokens into a slot; the logits after the last."""
        run = partial(self._backend.prefill, slot, tokens, start)
        try:
            return self._compute(run)
        except BackendFailed as error:
            _log.warning("prefill repeated", slot=slot, error=error.message)
        try:
            return self._compute(run)
        except BackendFailed:
            self._check_engine(slot)
            raise

    def decode(
        self, tokens: Sequence[int], starts: Sequence[int], wanted: Sequence[int]
    ) -> Iterator[tuple[int, Logits | BackendFailed]]:
        """The logits of the wanted rows, each valid until the next is asked for."""
        try:
            logits = self._compute(partial(self._backend.decode, tokens, starts))
        except BackendFailed as error:
            _log.warning("decode repeated row by row", rows=len(wanted), error=error.message)
            yield from self._decode_rows(tokens, starts, wanted)
            return
        for row in wanted:
            yield row, logits[row]

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copies the first positions of a slot to another."""
        self._attempt(partial(self._backend.copy, source, target, tokens))

    def exchange(self, first: int, second: int, tokens: int) -> None:
        """Swaps the first positions of two slots."""
        self._attempt(partial(self._backend.exchange, first, second, tokens))

    def _decode_rows(
        self, tokens: Sequence[int], starts: Sequence[int], wanted: Sequence[int]
    ) -> Iterator[tuple[int, Logits | BackendFailed]]:
        # Failures come last: if all fail it is not the rows, and none is told that it is.
        failed: list[tuple[int, BackendFailed]] = []
        for row in wanted:
            run = partial(self._backend.prefill, row, (tokens[row],), starts[row])
            try:
                logits = self._compute(run)
            except BackendFailed as error:
                failed.append((row, error))
            else:
                yield row, logits
        if len(failed) == len(wanted):
            self._check_engine(wanted[0])
        yield from failed

    def _check_engine(self, slot: int) -> None:
        """Has the engine do what it could do before, in a slot that holds nothing of use.

        Raises:
            EngineBroken: it cannot, so it is nobody's request that it fails at.
        """
        run = partial(self._backend.prefill, slot, KNOWN_TOKENS, 0)
        while True:  # the health counts, and raises when it is one failure too many
            with suppress(BackendFailed):
                self._compute(run)
                return

    def _compute(self, run: Callable[[], R]) -> R:
        result = self._attempt(run)
        self._health.succeed()  # a copy that succeeds would say nothing of the engine
        return result

    def _attempt(self, run: Callable[[], R]) -> R:
        try:
            return run()
        except BackendFailed as error:
            self._fail(error)
            raise
        except MemoryError as error:
            failure = BackendFailed("out of memory")
            self._fail(failure)
            raise failure from error

    def _fail(self, error: BackendFailed) -> None:
        self._meter.count_failed_run()
        self._health.fail(error)
