"""Log probabilities in OpenAI's two forms. Pure.

A token is bytes and need not be whole characters; where it is not, its text shows replacement
characters and `bytes` tells the truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mesh.pb.node_pb2 import TokenLogprob


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """The form of chat completions."""
    content = [_entry(token) | {"top_logprobs": list(map(_entry, token.top))} for token in tokens]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """The form of plain completions; `offset` is where in the text the first token begins."""
    texts = [_text(token) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{_text(each): each.logprob for each in token.top} for token in tokens],
        "text_offset": offsets,
    }


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {"token": _text(token), "logprob": token.logprob, "bytes": list(token.token)}


def _text(token: TokenLogprob) -> str:
    return token.token.decode(errors="replace")
