"""Folders that are made once per machine: compiled graphs and whatever else is dear to make.

A folder's name is a digest of all that its content depends on, so that nothing ever has to be
invalidated. It is made beside its place and renamed when whole, under a file lock: nodes that
start together make it once, and a crash leaves nothing half made. What is inside is the caller's
business, but for one small file: it names the model, and its time is that of the last use.

Whoever makes a new folder removes the model's old ones, all but the last used. A folder that was
used today stays: some node may be reading it just now. One that reads it no more than that has it
in memory, and loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

USE_FILE = "used-by"
KEPT_FOLDERS = 4
"""Per model: versions of one traffic split, and one to go back to."""
SAFE_AGE_S = 24 * 3600.0
"""Far longer than any model takes to load."""


def compiled_folder(
    cache_dir: Path, model: str, parts: Sequence[str | int], build: Callable[[Path], None]
) -> Path:
    """The folder that stands for these parts, made by `build` if this machine has not got it."""
    place = cache_dir / folder_key(parts)
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _lock(place):
        is_new = not place.exists()
        if is_new:
            _make(place, build)
        (place / USE_FILE).write_text(model)
    if is_new:
        _remove_old(cache_dir, model, time.time())
    return place


def discard_folder(place: Path) -> None:
    """Throws away a folder whose content has turned out to be wrong."""
    with _lock(place):
        if place.exists():
            shutil.rmtree(_unfinished(place), ignore_errors=True)
            place.rename(_unfinished(place))
            shutil.rmtree(_unfinished(place), ignore_errors=True)


def folder_key(parts: Sequence[str | int]) -> str:
    """The folder's name: it changes with whatever could change the content."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def old_folders(used_s: Mapping[Path, float], now_s: float) -> list[Path]:
    """Those of a model's folders that are to go, given when each was last used."""
    by_use = sorted(used_s, key=lambda place: used_s[place], reverse=True)
    return [place for place in by_use[KEPT_FOLDERS:] if now_s - used_s[place] > SAFE_AGE_S]


def _make(place: Path, build: Callable[[Path], None]) -> None:
    unfinished = _unfinished(place)
    # Whoever left it is dead: we hold the lock.
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    build(unfinished)
    unfinished.rename(place)


def _remove_old(cache_dir: Path, model: str, now_s: float) -> None:
    for place in old_folders(_uses(cache_dir, model), now_s):
        try:
            with _lock(place, timeout_s=0):
                # Another node may have used or removed it since we looked.
                if now_s - _uses(cache_dir, model).get(place, now_s) > SAFE_AGE_S:
                    place.rename(_unfinished(place))
                    shutil.rmtree(_unfinished(place), ignore_errors=True)
        except Timeout:
            continue  # it is in use after all


def _uses(cache_dir: Path, model: str) -> dict[Path, float]:
    """When each folder of the model was last used."""
    uses = {}
    for file in cache_dir.glob(f"*/{USE_FILE}"):
        try:
            if file.read_text() == model:
                uses[file.parent] = file.stat().st_mtime
        except FileNotFoundError:
            continue  # removed by another node
    return uses


def _unfinished(place: Path) -> Path:
    return place.with_suffix(".unfinished")


def _lock(place: Path, timeout_s: float = -1) -> FileLock:
    return FileLock(place.with_suffix(".lock"), timeout=timeout_s)
