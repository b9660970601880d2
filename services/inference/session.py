"""Which conversation or user a call belongs to, as far as its metadata says.

The same headers by which the mesh brings a conversation back to its node. They say nothing of who
the caller is; they only keep one crowd from standing in everybody's way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

_HEADERS = ("x-session-id", "x-ringmesh-affinity")
"""The caller's own word first; then what the gateway has made of the request."""


class HasMetadata(Protocol):
    """A servicer's context, as much of it as is needed here."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """The call's metadata."""


def session_of(context: HasMetadata) -> str | None:
    """The session, or None for a call by itself."""
    found = {
        key: value
        for key, value in context.invocation_metadata() or ()
        if key in _HEADERS and isinstance(value, str) and value
    }
    return next((found[name] for name in _HEADERS if name in found), None)
