"""Text to token ids and token ids to bytes, from what a GGUF file says.

Byte-level BPE only: each token then stands for fixed bytes, so that text can be put together token
by token without asking the tokenizer again. A pre-tokenizer that is not known here is refused by
name; guessing one would give a model that reads slightly wrong text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from mesh.errors import FailedPrecondition
from services.inference.llm.gguf_model import GgufModel


class TokenType(IntEnum):
    """GGUF's token types, as far as they matter here."""

    CONTROL = 3
    USER_DEFINED = 4


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _digits_apart() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), _bytes_only(use_regex=True)]
    )


def _llama3() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_LLAMA3), "isolated"), _bytes_only(use_regex=False)]
    )


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return _bytes_only(use_regex=True)


def _bytes_only(*, use_regex: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


_PRE_TOKENIZERS = {"smollm": _digits_apart, "llama-bpe": _llama3, "gpt-2": _gpt2}


def tokenizer_from_gguf(model: GgufModel) -> Tokenizer:
    """The tokenizer that a GGUF file describes."""
    kind, pre = model.field("tokenizer.ggml.model"), model.field("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise FailedPrecondition(
            f"tokenizer {kind!r} with pre-tokenizer {pre!r} is not known here; "
            f"known are 'gpt2' with {', '.join(sorted(_PRE_TOKENIZERS))}"
        )
    tokens: list[str] = model.field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in model.field("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_added(tokens, model.field("tokenizer.ggml.token_type")))
    return tokenizer


def _added(tokens: Sequence[str], types: Sequence[int]) -> list[AddedToken]:
    return [
        AddedToken(token, special=kind == TokenType.CONTROL, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]


class Vocabulary:
    """Encodes text, and knows the bytes of each token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = _token_bytes(tokenizer)
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
    byte_of = _byte_alphabet()
    out = [b""] * (max(pieces.values()) + 1)
    for piece, index in pieces.items():
        if index in added:
            out[index] = piece.encode()
        else:
            out[index] = bytes([byte_of[character] for character in piece])
    return out


def _byte_alphabet() -> dict[str, int]:
    """The printable characters by which byte-level BPE writes the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
