"""Token bytes to text, as it may be shown: whole characters, and nothing of a stop string.

Two things hold text back. A token may end inside a UTF-8 character; its bytes wait for the rest.
And text that could be the beginning of a stop string waits until it is one, or can no longer be.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

_Utf8 = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """The text of one answer in the making."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = _Utf8("replace")
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False

    def feed(self, piece: bytes) -> str:
        """Takes in a token's bytes; returns the text that is now certain."""
        if not self._stops:
            return self._decoder.decode(piece)
        if self.is_stopped:
            return ""
        text = self._held + self._decoder.decode(piece)
        end = self._find_stop(text)
        self.is_stopped = end is not None
        if end is None:
            end = len(text) - self._undecided(text)
        self._held = text[end:]
        return text[:end]

    def finish(self) -> str:
        """What was held back in case a stop string came; half a character stays unsaid."""
        held, self._held = ("", "") if self.is_stopped else (self._held, "")
        return held

    def _find_stop(self, text: str) -> int | None:
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        return min(places, default=None)

    def _undecided(self, text: str) -> int:
        """The length of the longest end of `text` with which a stop string begins."""
        return max((_overlap(text, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
