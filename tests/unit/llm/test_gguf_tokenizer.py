"""Tokenizers out of GGUF's fields; SentencePiece's against its own rule, spelt out."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from mesh.errors import FailedPrecondition
from services.inference.llm.gguf_tokenizer import tokenizer_from_gguf
from services.inference.llm.vocabulary import Vocabulary

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())

PIECES = [
    *(("t", -9.0), ("h", -9.5), ("e", -8.0), ("a", -8.5), ("n", -9.9), (SPACE, -7.0)),
    *(("th", -2.0), ("the", -1.5), (f"{SPACE}t", -3.0), (f"{SPACE}the", -1.0), ("an", -2.5)),
    *((f"{SPACE}a", -2.6), ("he", -1.2), ("hen", -4.0), ("ea", -3.5), ("na", -3.6)),
]


def fields_of_sentencepiece() -> dict[str, Any]:
    singles = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *singles, *(piece for piece, _ in PIECES)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [score for _, score in PIECES],
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL]
        + [BYTE] * 256
        + [NORMAL] * len(PIECES),
    }


SENTENCEPIECE = fields_of_sentencepiece()


def by_the_rule(text: str) -> list[str]:
    """Again and again, join the two neighbours that make the best piece; the leftmost of equals."""
    scores = dict(PIECES)
    parts = list(SPACE + text.replace(" ", SPACE))
    while True:
        joined = [a + b for a, b in pairwise(parts)]
        best = max((scores.get(each, -1e9) for each in joined), default=-1e9)
        if best == -1e9:
            return parts
        place = next(i for i, each in enumerate(joined) if scores.get(each) == best)
        parts[place : place + 2] = [joined[place]]


@given(st.text("the an", max_size=24))
def test_sentencepiece_joins_the_best_pairs(text: str) -> None:
    tokenizer = tokenizer_from_gguf(SENTENCEPIECE.get)
    ids = Vocabulary(tokenizer).encode(text)
    expected = by_the_rule(text) if text else []
    assert [tokenizer.id_to_token(i) for i in ids] == expected


@given(st.text(max_size=12))
def test_sentencepiece_loses_nothing_of_any_text(text: str) -> None:
    vocabulary = Vocabulary(tokenizer_from_gguf(SENTENCEPIECE.get))
    said = b"".join(map(vocabulary.text_bytes, vocabulary.encode(text))).decode()
    # It begins every text with a space of its own.
    assert said == (" " + text.replace(SPACE, " ") if text else "")


def fields_of_bytes(pre: str, merges: list[str]) -> dict[str, Any]:
    made = [merge.replace(" ", "") for merge in merges]
    tokens = [*LETTERS, *made, "<|end|>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [NORMAL] * (len(tokens) - 1) + [CONTROL],
    }


@pytest.mark.parametrize(
    ("pre", "numbers"),
    [
        ("smollm", ["1", "2", "3", "4"]),
        ("qwen2", ["1", "2", "3", "4"]),
        ("llama-bpe", ["123", "4"]),
        ("gpt-2", ["1234"]),
    ],
)
def test_each_kind_cuts_numbers_in_its_own_way(pre: str, numbers: list[str]) -> None:
    tokenizer = tokenizer_from_gguf(fields_of_bytes(pre, ["1 2", "12 3", "123 4"]).get)
    ids = Vocabulary(tokenizer).encode("1234<|end|>")
    assert [tokenizer.id_to_token(i) for i in ids] == [*numbers, "<|end|>"]


@given(st.sampled_from(["smollm", "qwen2", "llama-bpe", "gpt-2"]), st.text(max_size=20))
def test_byte_level_kinds_lose_nothing_of_composed_text(pre: str, text: str) -> None:
    vocabulary = Vocabulary(tokenizer_from_gguf(fields_of_bytes(pre, ["a b", "ab c"]).get))
    said = b"".join(map(vocabulary.text_bytes, vocabulary.encode(text))).decode()
    assert pre == "qwen2" or said == text


@pytest.mark.parametrize(("kind", "pre"), [("gpt2", "tekken"), ("bert", None), ("gpt2", None)])
def test_a_tokenizer_that_is_not_known_is_refused_by_name(kind: str, pre: str | None) -> None:
    said = {"tokenizer.ggml.model": kind, "tokenizer.ggml.pre": pre}
    with pytest.raises(FailedPrecondition, match=rf"{kind!r}.*{pre!r}.*llama-bpe.*qwen2.*smollm"):
        tokenizer_from_gguf(said.get)
