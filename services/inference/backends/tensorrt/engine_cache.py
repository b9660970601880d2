"""Engines that are kept: on this machine's disk, and in the store that all nodes share.

An engine is looked for on the disk, then in the store, and built if it is nowhere; whoever builds
one gives it to the others. A file that is not what its header says is thrown away wherever it lies,
and what was in it is built again. A store that does not answer costs a build and nothing more.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mesh.errors import RingmeshError
from mesh.logs import get_logger
from services.inference.backends.tensorrt.engine_file import (
    FILE,
    EngineDamaged,
    EngineKey,
    read_engine,
    write_engine,
)
from services.inference.graph.compiled_folder import USE_FILE, compiled_folder, discard_folder

KEPT_PER_ARTEFACT = 16
"""In the store: architectures, versions and shapes of one artefact."""
_PLAN = "plan.unfinished"

_log = get_logger(__name__)


class DerivedStore(Protocol):
    """The part of the artefact store that this needs."""

    async def put_derived(self, digest: str, name: str, path: Path, *, keep: int) -> None:
        """Stores a file."""

    async def fetch_derived(self, digest: str, name: str, target: Path) -> bool:
        """Writes one to `target`, if there is one."""


class EngineCache:
    """The engines of one machine; every method blocks."""

    def __init__(self, store: DerivedStore | None) -> None:
        self._store = store

    def load(self, cache_dir: Path, key: EngineKey) -> bytes | None:
        """The plan, if this machine has it, whole."""
        folder = engine_folder(cache_dir, key)
        try:
            plan = read_engine(folder / FILE, key)
            os.utime(folder / USE_FILE)
        except FileNotFoundError:
            return None
        except EngineDamaged as damage:
            _log.warning("engine on disk is damaged", engine=key.name, reason=str(damage))
            discard_folder(folder)
            return None
        return plan

    def obtain(
        self, cache_dir: Path, model: str, key: EngineKey, build: Callable[[Path, Path], None]
    ) -> None:
        """Sees to it that this machine has the engine; it is fetched, or built for all.

        `build` is given a folder to work in and the path of the plan to write.
        """

        def make(folder: Path) -> None:
            if self._fetch(key, folder / FILE):
                return
            work = folder / "work"
            work.mkdir()
            build(work, work / _PLAN)
            write_engine(folder / FILE, key, work / _PLAN)
            shutil.rmtree(work)
            self._share(key, folder / FILE)

        compiled_folder(cache_dir, model, key.parts, make)

    def _fetch(self, key: EngineKey, path: Path) -> bool:
        if self._store is None:
            return False
        try:
            # In a thread of its own, so there is no loop that this could be in the way of.
            if not asyncio.run(self._store.fetch_derived(key.digest, key.name, path)):
                return False
            read_engine(path, key)
        except RingmeshError as error:
            _log.warning("engine cannot be fetched", engine=key.name, reason=error.message)
        except EngineDamaged as damage:
            _log.warning("engine in the store is damaged", engine=key.name, reason=str(damage))
        else:
            _log.info("engine fetched", engine=key.name)
            return True
        path.unlink(missing_ok=True)
        return False

    def _share(self, key: EngineKey, path: Path) -> None:
        if self._store is None:
            return
        put = self._store.put_derived(key.digest, key.name, path, keep=KEPT_PER_ARTEFACT)
        try:
            asyncio.run(put)
        except RingmeshError as error:
            _log.warning("engine cannot be shared", engine=key.name, reason=error.message)


def engine_folder(cache_dir: Path, key: EngineKey) -> Path:
    """Where an engine lies, and what belongs to it."""
    return cache_dir / key.name
