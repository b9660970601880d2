"""Has the work done that a backend was passed over for, so that a model can be opened there.

A backend that must first make something of a model (compile an engine, say) refuses it at first, so
that the model serves elsewhere at once. This has the work done meanwhile, in a thread of its own. A
version that leaves memory leaves its work going, and finds it again, or what it made, when it comes
back; one that leaves the node takes it along. It opens nothing, and knows no backend by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mesh.deployment import Assignment
from services.inference.backends.pending import HasPending, Pending
from services.inference.loading_thread import start_thread
from services.inference.models.loaded_model import Key, LoadedModel
from services.inference.models.residence import key_of

Say = Callable[[str], None]


class Improvement:
    """What a version's stay asks for a better engine."""

    def __init__(self) -> None:
        self._works: dict[Key, asyncio.Task[None]] = {}
        # One at a time: each takes a core and much memory.
        self._turn = asyncio.Semaphore(1)

    def __repr__(self) -> str:
        return f"<Improvement of {sorted(self._works)}>"

    async def __call__(self, assignment: Assignment, serving: LoadedModel, say: Say) -> bool:
        """Whether the version may now be opened on a better engine than the one that serves.

        Raises:
            BackendUnavailable: the work has failed, and why.
        """
        work = serving.pending if isinstance(serving, HasPending) else None
        if work is None:
            return False
        say(f"runs on {serving.backend} while its engine for {work.backend} is being built")
        await asyncio.shield(self._begun(key_of(assignment), work))
        return True

    def give_up(self, assignment: Assignment) -> None:
        """Ends a version's work, if it is still going: nobody is going to ask for it."""
        task = self._works.pop(key_of(assignment), None)
        if task is not None:
            task.cancel()

    def _begun(self, key: Key, work: Pending) -> asyncio.Task[None]:
        """The version's work: that which is going, or else this."""
        if key not in self._works:
            self._works[key] = task = asyncio.create_task(self._do(work))
            task.add_done_callback(lambda done: self._forget(key, done))
        return self._works[key]

    def _forget(self, key: Key, done: asyncio.Task[None]) -> None:
        if self._works.get(key) is done:
            del self._works[key]
        if not done.cancelled():
            done.exception()  # of interest to those who wait, and there may be none

    async def _do(self, work: Pending) -> None:
        async with self._turn:
            await _prepare(work)


async def _prepare(work: Pending) -> None:
    """In a thread that a node which stops does not wait for: it may be waiting for another node."""
    try:
        await start_thread(work.prepare, f"prepare-{work.backend}")
    except asyncio.CancelledError:
        work.cancel()
        raise
