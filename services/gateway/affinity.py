"""The affinity key: what makes the same conversation come back to the node that remembers it.

Pure. The first fact that is present decides, the most deliberate first: a session header, the
conversation or user that an OpenAI request names, a sequence, the beginning of the prompt. Requests
without any of them have no key and go to the least loaded node.

A session id passes as it came, so that a request which Envoy routes without this process, by the
same header, meets the same node. Everything else is hashed: it may be long, not ASCII, or private.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

PROMPT_HEAD_CHARS = 256
"""Of a plain prompt. Long enough to tell prompts apart, and short enough that a conversation which
is sent as one growing text keeps its key from the second turn on."""

PROMPT_HEAD_TOKENS = 64

MAX_SESSION_CHARS = 256


def affinity_key(
    *,
    session: str | None = None,
    conversation: str | None = None,
    user: str | None = None,
    sequence: str | int | None = None,
    prompt_head: str | None = None,
) -> str | None:
    """The key, or None where nothing ties this request to an earlier one."""
    if session:
        return session if _is_header_value(session) else _digest("session", session)
    # A sequence of 0 or "" means "no sequence" in the Open Inference Protocol.
    named = (("conversation", conversation), ("user", user), ("sequence", sequence))
    for kind, value in named:
        if value:
            return _digest(kind, str(value))
    return _digest("prompt", prompt_head) if prompt_head else None


def chat_head(messages: Sequence[tuple[str, str]]) -> str:
    """The leading part of a chat of (role, content): system prompts and the first message."""
    head: list[str] = []
    for role, content in messages:
        head.append(f"{role}\0{content}")
        if role != "system":
            break
    return "\0".join(head)


def text_head(prompt: str) -> str:
    """The leading part of a plain prompt."""
    return prompt[:PROMPT_HEAD_CHARS]


def token_head(tokens: Sequence[int]) -> str:
    """The leading part of a prompt that came as token ids."""
    return " ".join(map(str, tokens[:PROMPT_HEAD_TOKENS]))


def _is_header_value(text: str) -> bool:
    return len(text) <= MAX_SESSION_CHARS and text.isascii() and text.isprintable()


def _digest(kind: str, value: str) -> str:
    # "surrogatepass": JSON may carry half of a surrogate pair, and a key need not be text.
    data = f"{kind}\0{value}".encode(errors="surrogatepass")
    return hashlib.blake2b(data, digest_size=12).hexdigest()
