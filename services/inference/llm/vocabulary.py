"""Text to token ids and token ids to bytes.

Two kinds of tokenizer: byte-level BPE, and SentencePiece's with single bytes for what has no token.
In both each token stands for fixed bytes, so that text can be put together token by token without
asking the tokenizer again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer

from mesh.errors import FailedPrecondition

_SINGLE_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Vocabulary:
    """Encodes text, and knows the bytes of each token that the model can choose."""

    def __init__(self, tokenizer: Tokenizer, size: int = 0) -> None:
        self._tokenizer = tokenizer
        self._bytes = _token_bytes(tokenizer)
        # Models often have room for more tokens than the tokenizer knows.
        self._bytes += [b""] * (size - len(self._bytes))
        self.longest_token = max(len(piece) for piece in self._bytes)
        self._special = frozenset(
            index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special
        )

    def __len__(self) -> int:
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text; special tokens written out in it count as such."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def text_bytes(self, token: int) -> bytes:
        """What the token adds to the text: nothing, for a special token."""
        return b"" if token in self._special else self._bytes[token]

    def name_bytes(self, token: int) -> bytes:
        """What the token is called, special ones included."""
        return self._bytes[token]


def _token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    added = tokenizer.get_added_tokens_decoder()
    pieces: Mapping[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    to_bytes = _reading(tokenizer)
    out = [b""] * (max(pieces.values()) + 1)
    for piece, index in pieces.items():
        out[index] = piece.encode() if index in added else to_bytes(piece)
    return out


def _reading(tokenizer: Tokenizer) -> Callable[[str], bytes]:
    """How a piece of this tokenizer's vocabulary stands for bytes."""
    description = json.loads(tokenizer.to_str())
    kinds = {part.get("type") for part in _parts(description.get("decoder") or {})}
    if "ByteLevel" in kinds:
        byte_of = _byte_alphabet()
        return lambda piece: bytes([byte_of[character] for character in piece])
    if "ByteFallback" in kinds:
        return _sentencepiece_bytes
    raise FailedPrecondition(
        f"a tokenizer with the decoder {sorted(map(str, kinds))} is not supported; "
        "ByteLevel and ByteFallback are"
    )


def _parts(decoder: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(decoder.get("decoders", [decoder]))


def _sentencepiece_bytes(piece: str) -> bytes:
    if single := _SINGLE_BYTE.fullmatch(piece):
        return bytes([int(single[1], 16)])
    return piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """The printable characters by which byte-level BPE writes the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
