"""Folders that are made once per machine: compiled graphs and whatever else is dear to make.

A folder's name is a digest of all that its content depends on, so that nothing ever has to be
invalidated. It is made beside its place and renamed when whole, under a file lock: nodes that
start together make it once, and a crash leaves nothing half made. What is inside is the caller's
business.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock


def compiled_folder(
    cache_dir: Path, parts: Sequence[str | int], build: Callable[[Path], None]
) -> Path:
    """The folder that stands for these parts, made by `build` if this machine has not got it."""
    place = cache_dir / folder_key(parts)
    if place.exists():
        return place
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        if not place.exists():
            unfinished = place.with_suffix(".unfinished")
            # Whoever left it is dead: we hold the lock.
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            build(unfinished)
            unfinished.rename(place)
    return place


def folder_key(parts: Sequence[str | int]) -> str:
    """The folder's name: it changes with whatever could change the content."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
