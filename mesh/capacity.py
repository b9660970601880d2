"""How much memory this process may use: what the machine has, or the group that it runs in."""

from __future__ import annotations

import os
from pathlib import Path

_GROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where a container finds its limit, in the second and the first version of control groups."""


def memory_bytes(limits: tuple[Path, ...] = _GROUP_LIMITS) -> int:
    """The machine's memory, or the group's limit where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *filter(None, map(_limit, limits))])


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    # "max" stands for none, and so does the largest number that the first version can write.
    return int(text) if text.isdecimal() else None
