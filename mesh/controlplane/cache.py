"""The snapshot that is served now, and a wake-up for each stream that serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from mesh.controlplane.snapshot import Snapshot


class SnapshotCache:
    """Holds nothing until the first snapshot is published: an empty world is never served."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self._wakes: set[asyncio.Event] = set()

    def __repr__(self) -> str:
        return f"<SnapshotCache {self.snapshot!r}, {len(self._wakes)} streams>"

    def publish(self, snapshot: Snapshot) -> bool:
        """Replaces the snapshot; says whether anything changed."""
        if self.snapshot is not None and self.snapshot.version == snapshot.version:
            return False
        self.snapshot = snapshot
        for wake in self._wakes:
            wake.set()
        return True

    @contextmanager
    def subscribed(self) -> Iterator[asyncio.Event]:
        """An event that is set now and at each new snapshot, until the block is left."""
        wake = asyncio.Event()
        wake.set()
        self._wakes.add(wake)
        try:
            yield wake
        finally:
            self._wakes.discard(wake)
