"""The model versions of this node: their states, and what a request for one finds.

Whoever asks for a version that has been paged out waits until it is back in memory. The table
decides nothing about loading; it is told what happened.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from mesh.errors import DeadlineExceeded, Unavailable
from mesh.logs import get_logger
from services.inference.models.choice import choose_version, requested_version
from services.inference.models.engines import Engines, Usage
from services.inference.models.loaded_model import Key, LoadedModel
from services.inference.models.state import Change, ModelState, ModelStatus, advance
from services.inference.models.statistics import VersionStatistics

_log = get_logger(__name__)

REMEMBERED = 64
"""How many versions that are gone stay known: a caller's route is a moment old, and not a month."""


@dataclass(slots=True)
class _Entry:
    status: ModelStatus
    statistics: VersionStatistics
    engines: Engines
    is_paged_out: bool = False
    waiting: int = 0
    demanded: asyncio.Event = field(default_factory=asyncio.Event)
    changes: Counter[Change] = field(default_factory=Counter)


class ModelTable:
    """Every version that the node holds, is about to hold, or has held."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: dict[Key, _Entry] = {}
        self._changed = asyncio.Event()
        self._clock = clock
        self._on_idle: Callable[[], None] = _nothing
        self._is_stopping = False

    def __repr__(self) -> str:
        held = (f"{each.reference} {each.state.name}" for each in self.statuses())
        return f"<ModelTable {', '.join(held)}>"

    async def resolve(
        self,
        name: str,
        version: str,
        metadata_version: str | None,
        timeout_s: float | None = None,
    ) -> Any:
        """The loaded model that a request means; it stays until the calling task has ended.

        Raises:
            InvalidArgument: no name, or versions that contradict each other.
            ModelNotFound: the node has no such model or version.
            ModelNotReady: it has, but cannot answer with it now.
            DeadlineExceeded: it was not back in memory in time.
            Unavailable: the node stops, and brings nothing back any more.
        """
        entry = self._entry(name, version, metadata_version)
        if entry.is_paged_out:
            entry = await self._paged_in(name, version, metadata_version, timeout_s)
        entry.engines.use(asyncio.current_task())
        return entry.engines.current

    async def _paged_in(
        self, name: str, version: str, metadata_version: str | None, timeout_s: float | None
    ) -> _Entry:
        try:
            async with asyncio.timeout(timeout_s):
                while (entry := self._entry(name, version, metadata_version)).is_paged_out:
                    if self._is_stopping:
                        raise Unavailable(f"{entry.status.reference} is paged out; the node stops")
                    with _waiting_for(entry):
                        await self.wait_for_change()
                return entry
        except TimeoutError:
            text = f"the deadline passed while {name} was being brought back into memory"
            raise DeadlineExceeded(text) from None

    def follow_idle(self, on_idle: Callable[[], None]) -> None:
        """Has a function called whenever the last call of a version has ended."""
        self._on_idle = on_idle

    def _tell_idle(self) -> None:
        self._on_idle()

    def usage(self, key: Key) -> Usage:
        """Whether a version is answering, and when it last was."""
        entry = self._entries[key]
        return entry.engines.usage(entry.waiting)

    def find(self, name: str, version: str, metadata_version: str | None) -> Any:
        """The same for a look only: the model may go at any time; None if it is paged out."""
        entry = self._entry(name, version, metadata_version)
        return None if entry.is_paged_out else entry.engines.current

    def _entry(self, name: str, version: str, metadata_version: str | None) -> _Entry:
        model, number = requested_version(name, version, metadata_version)
        status = choose_version(self.statuses(), model, number)
        return self._entries[status.model, status.version]

    def statistics(self, model: str, version: int) -> VersionStatistics:
        """What a version that `resolve` or `statuses` has named is counted in."""
        return self._entries[model, version].statistics

    def statuses(self) -> Iterable[ModelStatus]:
        """The status of every version, in the order of their placement."""
        # Taken at once: the metrics are read in a thread of their own.
        return [entry.status for entry in tuple(self._entries.values())]

    def changes(self, status: ModelStatus) -> Mapping[Change, int]:
        """How often each thing has happened to a version that `statuses` has named."""
        entry = self._entries.get((status.model, status.version))
        return {} if entry is None else entry.changes  # the metrics' thread may be a moment late

    def ready_references(self) -> frozenset[str]:
        """The versions that answer: `minilm@1`."""
        return frozenset(
            each.reference for each in self.statuses() if each.state is ModelState.READY
        )

    def place(self, key: Key) -> None:
        """Makes a version known before anything of it is loaded."""
        if key in self._entries:
            self.change(key, Change.PLACED, "waiting to be loaded")
        else:
            status = ModelStatus(*key, reason="waiting to be loaded")
            engines = Engines(self._clock, self._tell_idle)
            self._entries[key] = _Entry(status, VersionStatistics(*key), engines)

    def change(
        self, key: Key, change: Change, reason: str = "", *, loaded: LoadedModel | None = None
    ) -> None:
        """Records what happened to a version; `loaded` is what answers for it from now on."""
        entry = self._entries[key]
        entry.changes[change] += 1
        entry.status = advance(
            entry.status,
            change,
            reason,
            backend="" if loaded is None else loaded.backend,
            memory_bytes=0 if loaded is None else loaded.memory_bytes,
        )
        if loaded is not None:
            entry.engines.current, entry.is_paged_out = loaded, False
            entry.engines.touch()  # nobody has had the time to use it
        state = entry.status.state.name
        _log.info("model changed", model=entry.status.reference, state=state, reason=reason)
        if change is Change.DRAINED:
            self._forget_oldest(key)
        self._tell()

    def _forget_oldest(self, gone: Key) -> None:
        """Versions come and go for months; those that went first are forgotten."""
        self._entries[gone] = self._entries.pop(gone)  # the last to go is the last to be forgotten
        unloaded = ModelState.UNLOADED
        known = [key for key, each in self._entries.items() if each.status.state is unloaded]
        for key in known[:-REMEMBERED]:
            del self._entries[key]

    def move(
        self, key: Key, better: LoadedModel, reason: str, on_closed: Callable[[], None]
    ) -> None:
        """Has another engine answer for a ready version from now on.

        Calls under way stay where they are; their engine is closed after the last of them.
        """
        self._entries[key].engines.replace(better, on_closed)
        self.change(key, Change.MOVED, reason, loaded=better)

    async def page_out(self, key: Key, reason: str) -> None:
        """Takes a ready version out of memory, after the calls that use it; who asks now waits."""
        entry = self._entries[key]
        entry.is_paged_out = True
        entry.demanded.clear()
        self.change(key, Change.PAGED_OUT, reason)
        await entry.engines.wait_until_idle(None)
        await entry.engines.close()

    def demand(self, key: Key) -> None:
        """Asks for a version as a call would, if it is paged out."""
        if key in self._entries:
            self._entries[key].demanded.set()

    async def wait_for_demand(self, key: Key) -> None:
        """Returns when somebody asks for a version that is paged out."""
        await self._entries[key].demanded.wait()

    def remark(self, key: Key, reason: str) -> None:
        """Says something of a version that changes nothing."""
        entry = self._entries[key]
        entry.status = replace(entry.status, reason=reason)
        _log.info("model remark", model=entry.status.reference, reason=reason)
        self._tell()

    def stop_paging(self) -> None:
        """Refuses those who wait for a version that is paged out, and whoever would: the end."""
        self._is_stopping = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self) -> None:
        """Waits until something next happens to any version."""
        await self._changed.wait()

    async def wait_until_idle(self, key: Key, timeout_s: float | None) -> bool:
        """Waits for the calls that use a version; False if some still do after that time."""
        return await self._entries[key].engines.wait_until_idle(timeout_s)

    async def close_broken(self, key: Key) -> None:
        """Closes the engine that has failed; calls that began on an earlier one go on there."""
        await self._entries[key].engines.close_current()

    async def unload(self, key: Key) -> None:
        """Closes a version that nobody may ask for any more."""
        await self._entries[key].engines.close()

    async def aclose(self) -> None:
        """Closes everything that is still loaded, when the node stops."""
        for entry in tuple(self._entries.values()):
            await entry.engines.close()


@contextmanager
def _waiting_for(entry: _Entry) -> Iterator[None]:
    entry.waiting += 1
    entry.demanded.set()
    try:
        yield
    finally:
        entry.waiting -= 1


def _nothing() -> None:
    pass
