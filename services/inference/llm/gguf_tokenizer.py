"""The tokenizer that a GGUF file describes, as an object of the `tokenizers` library.

GGUF names how text is split before the merges (`tokenizer.ggml.pre`), and the splitting itself is
known to its readers. A name that is not known here is refused; guessing one would give a model that
reads slightly wrong text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from mesh.errors import FailedPrecondition

Field = Callable[[str], Any]


class TokenType(IntEnum):
    """GGUF's token types, as far as they matter here."""

    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4


@dataclass(frozen=True, slots=True)
class _Splitting:
    """How text is cut before the merges; whether a piece that is a token needs no merges."""

    cut: Callable[[], pre_tokenizers.PreTokenizer]
    ignore_merges: bool = False
    compose: bool = False


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _digits_apart() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), _bytes_only(use_regex=True)]
    )


def _split(pattern: str) -> Callable[[], pre_tokenizers.PreTokenizer]:
    def cut() -> pre_tokenizers.PreTokenizer:
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"), _bytes_only(use_regex=False)]
        )

    return cut


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return _bytes_only(use_regex=True)


def _bytes_only(*, use_regex: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


_SPLITTINGS = {
    "smollm": _Splitting(_digits_apart),
    "llama-bpe": _Splitting(_split(_LLAMA3), ignore_merges=True),
    "gpt-2": _Splitting(_gpt2),
    "qwen2": _Splitting(_split(_QWEN2), compose=True),
}


def tokenizer_from_gguf(field: Field) -> Tokenizer:
    """The tokenizer of a file, given how to read its fields.

    Raises:
        FailedPrecondition: it is of a kind that is not known here.
    """
    kind, pre = field("tokenizer.ggml.model"), field("tokenizer.ggml.pre")
    if kind == "llama":
        return _sentencepiece(field)
    if kind != "gpt2" or pre not in _SPLITTINGS:
        raise FailedPrecondition(
            f"tokenizer {kind!r} with pre-tokenizer {pre!r} is not known here; known are "
            f"'gpt2' with {', '.join(sorted(_SPLITTINGS))}, and 'llama'"
        )
    splitting = _SPLITTINGS[pre]
    tokens: list[str] = field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in field("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=splitting.ignore_merges))
    if splitting.compose:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = splitting.cut()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_added(tokens, field("tokenizer.ggml.token_type")))
    return tokenizer


def _sentencepiece(field: Field) -> Tokenizer:
    """SentencePiece's BPE, whose merges are the pairs that make a token, the best score first."""
    tokens: list[str] = field("tokenizer.ggml.tokens")
    scores: list[float] = field("tokenizer.ggml.scores")
    types: list[int] = field("tokenizer.ggml.token_type")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = next((t for t, kind in zip(tokens, types, strict=True) if kind == TokenType.UNKNOWN))
    model = models.BPE(
        vocabulary,
        _merges(tokens, scores, vocabulary),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    add_space = field("tokenizer.ggml.add_space_prefix")
    prepend = [normalizers.Prepend("▁")] if add_space in (None, True) else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(_added(tokens, types))
    return tokenizer


def _merges(
    tokens: Sequence[str], scores: Sequence[float], vocabulary: dict[str, int]
) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for index in sorted(range(len(tokens)), key=lambda i: -scores[i]):
        piece = tokens[index]
        halves = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        pairs = [(a, b) for a, b in halves if a in vocabulary and b in vocabulary]
        found += sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return found


def _added(tokens: Sequence[str], types: Sequence[int]) -> list[AddedToken]:
    return [
        AddedToken(token, special=kind == TokenType.CONTROL, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]
