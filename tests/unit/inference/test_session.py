"""Whose call it is, by its metadata."""

from __future__ import annotations

import pytest

from services.inference.session import session_of


class Context:
    def __init__(self, metadata: list[tuple[str, str | bytes]] | None) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> list[tuple[str, str | bytes]] | None:
        return self._metadata


@pytest.mark.parametrize(
    ("metadata", "session"),
    [
        (None, None),
        ([("x-request-id", "7")], None),
        ([("x-session-id", "")], None),
        ([("x-session-id", b"ann")], None),
        ([("x-ringmesh-affinity", "a1")], "a1"),
        ([("x-ringmesh-affinity", "a1"), ("x-session-id", "ann")], "ann"),
    ],
)
def test_the_callers_own_word_comes_first(
    metadata: list[tuple[str, str | bytes]] | None, session: str | None
) -> None:
    assert session_of(Context(metadata)) == session
