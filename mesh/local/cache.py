"""Where downloads are kept between meshes, and who may write there.

Several meshes on one machine (the tests run some in parallel) share one cache, so each entry is
made under a file lock and appears by a rename: a reader sees a whole entry or none.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock


def find_cache_dir(env: Mapping[str, str] | None = None) -> Path:
    """RINGMESH_CACHE_DIR, or the user's cache folder."""
    env = os.environ if env is None else env
    if configured := env.get("RINGMESH_CACHE_DIR"):
        return Path(configured).expanduser().resolve()
    root = env.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(root) / "ringmesh"


def obtain_once(entry: Path, make: Callable[[Path], None]) -> Path:
    """Returns the cache entry; calls `make` with an empty folder first where there is none."""
    if entry.is_dir():
        return entry
    entry.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(entry.with_name(f".{entry.name}.lock")):
        if not entry.is_dir():
            _make_entry(entry, make)
    return entry


def _make_entry(entry: Path, make: Callable[[Path], None]) -> None:
    staging = entry.with_name(f".{entry.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)  # of somebody who was killed while making it
    staging.mkdir()
    try:
        make(staging)
        staging.rename(entry)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
