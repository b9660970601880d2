"""Opens models on the backend that they were passed over for, once that is ready for them.

A backend that must first make something of a model (compile an engine, say) refuses it at first, so
that the model serves elsewhere at once. This has the work done meanwhile, in a thread of its own,
and opens the model again. It knows no backend by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Sequence

from mesh.deployment import Assignment
from services.inference.backends.backend import Backend
from services.inference.backends.pending import Pending, Prepares
from services.inference.models.table import HasRemark, LoadedModel

Open = Callable[[Assignment], Awaitable[LoadedModel]]
Say = Callable[[str], None]


class Improvement:
    """What a version's stay asks for a better engine."""

    def __init__(self, backends: Sequence[Backend], open_model: Open) -> None:
        self._backends = tuple(each for each in backends if isinstance(each, Prepares))
        self._open = open_model
        # One at a time: each takes a core and much memory.
        self._turn = asyncio.Semaphore(1)

    async def __call__(
        self, assignment: Assignment, serving: LoadedModel, say: Say
    ) -> LoadedModel | None:
        """The version on a better engine than the one that serves; None if there is none to be had.

        Raises:
            BackendUnavailable: the work has failed, and why.
        """
        work = self._pending(assignment.spec.digest)
        if work is None:
            return None
        say(f"runs on {serving.backend} while its engine for {work.backend} is being built")
        async with self._turn:
            await _prepare(work)
        return await self._better(assignment, serving, say)

    def _pending(self, digest: str) -> Pending | None:
        found = (each.pending(digest) for each in self._backends)
        return next((work for work in found if work is not None), None)

    async def _better(
        self, assignment: Assignment, serving: LoadedModel, say: Say
    ) -> LoadedModel | None:
        opened = await self._open(assignment)
        if opened.backend != serving.backend:
            return opened
        # Built, and refused all the same: the GPU may have filled up meanwhile.
        remark = opened.remark if isinstance(opened, HasRemark) else ""
        say(remark or f"stays on {serving.backend}")
        await opened.close()
        return None


async def _prepare(work: Pending) -> None:
    """In a thread that a node which stops does not wait for: it may be waiting for another node."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        outcome: BaseException | None = None
        try:
            work.prepare()
        except BaseException as error:  # noqa: BLE001 - the thread's edge: it is raised over there
            outcome = error
        with contextlib.suppress(RuntimeError):  # the node has stopped
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name=f"prepare-{work.backend}", daemon=True).start()
    try:
        await done
    except asyncio.CancelledError:
        work.cancel()
        raise
