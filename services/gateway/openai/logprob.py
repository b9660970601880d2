"""Log probabilities in OpenAI's two forms. Pure.

A token is bytes and need not be whole characters; where it is not, its text shows replacement
characters and `bytes` tells the truth.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from mesh.pb.node_pb2 import TokenLogprob

_Utf8 = codecs.getincrementaldecoder("utf-8")


class TextOffsets:
    """Where in the text each token begins, whether or not all of the text was told by then."""

    def __init__(self) -> None:
        self._decoder = _Utf8("replace")
        self._length = 0

    def next(self, token: bytes) -> int:
        """The offset of the token that comes next; a character counts with its last byte."""
        offset = self._length
        self._length += len(self._decoder.decode(token))
        return offset


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """The form of chat completions."""
    content = [_entry(token) | {"top_logprobs": list(map(_entry, token.top))} for token in tokens]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob], offsets: TextOffsets) -> dict[str, Any]:
    """The form of plain completions; `offsets` go on from token to token of a choice."""
    return {
        "tokens": list(map(_text, tokens)),
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{_text(each): each.logprob for each in token.top} for token in tokens],
        "text_offset": [offsets.next(token.token) for token in tokens],
    }


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {"token": _text(token), "logprob": token.logprob, "bytes": list(token.token)}


def _text(token: TokenLogprob) -> str:
    return token.token.decode(errors="replace")
