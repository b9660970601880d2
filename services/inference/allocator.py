"""The C allocator of a process that loads and unloads models: bounded, and made to give back.

glibc gives each thread an arena of its own and keeps what is freed there. Models are loaded in
whatever thread is free, so that every load leaves its holes in another arena: a node grew by 35 MB
each time that a model of 90 MB was loaded anew. With two arenas it stays where it is. On another C
library there is nothing of the kind to do.
"""

from __future__ import annotations

import ctypes
from typing import Any

_M_ARENA_MAX = -8
_ARENAS = 2


def bound_arenas() -> None:
    """Keeps the allocator to a few arenas; to be called before there are threads."""
    mallopt = _find("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Gives the system back what is free; takes some milliseconds."""
    malloc_trim = _find("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _find(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
