"""Constraints, compiled and followed: every text that they let through is of the form asked for."""

from __future__ import annotations

import asyncio
import json
import random
import re
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from services.inference.llm.constraint import Constraint, ConstraintKind
from services.inference.llm.grammar import KEPT_GRAMMARS, GrammarCompiler
from tests.unit.llm.toy_vocabulary import END, make_vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.inference.llm.constraint import Matcher

VOCABULARY = make_vocabulary()
TOKEN = {VOCABULARY.text_bytes(token).decode("latin-1"): token for token in range(len(VOCABULARY))}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mood": {"enum": ["sunny", "é", None]},
        "lists": {
            "type": "array",
            "maxItems": 3,
            "items": {"type": "array", "maxItems": 3, "items": {"type": "boolean"}},
        },
    },
    "required": ["name", "age", "mood", "lists"],
    "additionalProperties": False,
}


def schema(value: Any) -> Constraint:
    return Constraint(ConstraintKind.JSON_SCHEMA, (json.dumps(value),))


def regex(text: str) -> Constraint:
    return Constraint(ConstraintKind.REGEX, (text,))


def choice(*texts: str) -> Constraint:
    return Constraint(ConstraintKind.CHOICE, texts)


def grammar(text: str) -> Constraint:
    return Constraint(ConstraintKind.GRAMMAR, (text,))


def compiler() -> GrammarCompiler:
    return GrammarCompiler(VOCABULARY, {END})


@cache
def shared() -> GrammarCompiler:
    """A compiler whose grammars outlast a test: what comes of them does not."""
    return compiler()


async def start(
    constraint: Constraint, taken: Sequence[int] = (), *, ignore_end: bool = False
) -> Matcher:
    return await shared().matcher(constraint, taken, ignore_end=ignore_end)


def walk(matcher: Matcher, chance: random.Random, most: int = 4000) -> list[int]:
    """The tokens of one way through the grammar; an end is taken when there is one."""
    tokens: list[int] = []
    while not matcher.is_finished and len(tokens) < most:
        allowed = matcher.allowed()
        if END in allowed:
            break
        tokens.append(chance.choice(allowed.tolist()))
        matcher.take(tokens[-1])
    return tokens


def text_of(tokens: Sequence[int]) -> str:
    return b"".join(map(VOCABULARY.text_bytes, tokens)).decode()


def is_person(text: str) -> bool:
    person = json.loads(text)
    return (
        list(person) == ["name", "age", "mood", "lists"]
        and len(person["name"]) <= 6
        and 0 <= person["age"] <= 150
        and person["mood"] in ("sunny", "é", None)
        and len(person["lists"]) <= 3
        and all(len(row) <= 3 and set(row) <= {True, False} for row in person["lists"])
    )


LARK = 'start: sum\nsum: NUMBER | sum "-" NUMBER\nNUMBER: /[1-9][0-9]{0,2}/'
GBNF = 'root ::= "yes" | "no" tail\ntail ::= "," [0-9] | "."'
FORMS = [
    (schema(PERSON), is_person),
    (regex(r"(é|ab)+-\d{2}"), lambda text: re.fullmatch(r"(é|ab)+-\d{2}", text)),
    (choice("yes", 'é"a', "{\n}"), lambda text: text in ("yes", 'é"a', "{\n}")),
    (grammar(LARK), lambda text: re.fullmatch(r"[1-9]\d{0,2}(-[1-9]\d{0,2})*", text)),
    (grammar(GBNF), lambda text: re.fullmatch(r"yes|no(,\d|\.)", text)),
]


@pytest.mark.parametrize(("constraint", "is_kept"), FORMS)
@given(seed=st.integers(0, 2**32))
def test_every_way_through_a_grammar_is_of_its_form(
    constraint: Constraint, is_kept: Any, seed: int
) -> None:
    matcher = asyncio.run(start(constraint))
    text = text_of(walk(matcher, random.Random(seed)))
    assert is_kept(text), text


@pytest.mark.parametrize("constraint", [constraint for constraint, _ in FORMS])
@given(seed=st.integers(0, 2**32), cut=st.floats(0, 1))
def test_tokens_that_were_delivered_lead_to_the_same_place(
    constraint: Constraint, seed: int, cut: float
) -> None:
    tokens = walk(asyncio.run(start(constraint)), random.Random(seed))
    taken = tokens[: int(cut * len(tokens))]
    straight, again = asyncio.run(start(constraint)), asyncio.run(start(constraint, taken))
    for token in taken:
        straight.allowed()
        straight.take(token)
    assert again.allowed().tolist() == straight.allowed().tolist()
    assert again.is_finished == straight.is_finished


@given(st.text(min_size=1))
@example("\x7f")
def test_any_text_can_be_a_choice(text: str) -> None:
    matcher = asyncio.run(start(choice("a", f"x{text}")))
    assert {VOCABULARY.text_bytes(token) for token in matcher.allowed()} >= {b"a", b"x"}


async def test_a_backslash_may_end_an_expression_if_it_is_escaped() -> None:
    matcher = await start(regex("a\\\\"))
    matcher.take(TOKEN["a"])
    assert not matcher.is_finished


@given(st.recursive(st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_any_multiple_is_taken_or_refused(step: Any) -> None:
    with suppress(InvalidArgument):
        asyncio.run(start(schema({"type": "number", "multipleOf": step})))


async def test_any_object_is_a_json_object() -> None:
    matcher = await start(Constraint(ConstraintKind.JSON_OBJECT))
    assert {VOCABULARY.text_bytes(token) for token in matcher.allowed()} == {b"{", b'{"'}
    for piece in ('{"', "a", '":', "[", "]", "}"):
        assert not matcher.is_finished
        matcher.take(TOKEN[piece])
    assert matcher.is_finished


async def test_white_space_in_json_comes_to_an_end() -> None:
    matcher = await start(Constraint(ConstraintKind.JSON_OBJECT))
    space, line = TOKEN[" "], TOKEN["\n"]
    for token in (TOKEN["{"], line, *[space] * 16):
        assert token in matcher.allowed()
        matcher.take(token)
    assert {space, line}.isdisjoint(matcher.allowed().tolist())


async def test_the_end_is_allowed_where_the_text_may_end() -> None:
    matcher = await start(regex("a{2,3}"))
    a = TOKEN["a"]
    for may_end in (False, False, True):
        assert (END in matcher.allowed()) == may_end
        assert not matcher.is_finished
        matcher.take(a)
    assert matcher.is_finished


async def test_who_ignores_the_end_is_not_offered_it() -> None:
    matcher = await start(regex("a{2,3}"), ignore_end=True)
    a = TOKEN["a"]
    for _ in range(3):
        assert a in matcher.allowed()
        assert END not in matcher.allowed()
        matcher.take(a)
    assert matcher.is_finished


async def test_a_special_token_is_no_part_of_a_text_that_spells_it() -> None:
    matcher = await start(Constraint(ConstraintKind.REGEX, (".{5}",)))
    assert END not in matcher.allowed()


async def test_tokens_that_break_the_form_are_refused() -> None:
    with pytest.raises(
        InvalidArgument, match=r"resume_token_ids\[1\] does not keep to the regular"
    ) as refused:
        await start(regex("1a"), [TOKEN["1"], TOKEN["2"]])
    assert refused.value.field == "resume_token_ids"


def nested(depth: int) -> Any:
    return {"type": "null"} if depth == 0 else {"type": "array", "items": nested(depth - 1)}


WRONG = [
    (schema({"type": "strng"}), "Invalid type: strng"),
    (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
    (schema({"type": "string", "pattern": "(a"}), "unclosed group"),
    (schema({"$ref": "#/nowhere"}), "nowhere"),
    (schema({"oneOf": [{"type": "string"}, {"const": "a"}]}), "anyOf may do"),
    (schema({"$ref": "#"}), "no text can satisfy it"),
    (schema(False), "must be a JSON object"),
    (schema([]), "must be a JSON object"),
    (Constraint(ConstraintKind.JSON_SCHEMA, ("{",)), "line 1 column 2"),
    (Constraint(ConstraintKind.JSON_SCHEMA, (" ",)), "is empty"),
    (schema({"multipleOf": True}), "multipleOf"),
    (schema({"type": "string", "pattern": "^a\\"}), "pattern ends with a backslash"),
    (schema({"patternProperties": {"^a\\": {}}}), "patternProperties ends with a backslash"),
    (schema({"type": "number", "multipleOf": 1e-310}), "multipleOf"),
    (schema({"type": "number", "multipleOf": float("nan")}), "multipleOf"),
    (regex("("), "unclosed group"),
    (regex("(?=a)"), "look-around"),
    (regex("a\\"), "ends with a backslash"),
    (regex("a\\\\\\"), "ends with a backslash"),
    (regex("[^\x00-\U0010ffff]"), "no text can satisfy it"),
    (grammar("start: nowhere"), "nowhere"),
    (grammar("root ::= nowhere"), "nowhere"),
    (grammar("hello {"), "Expected"),
    (grammar("start: %json {}"), "%json is not offered"),
    (grammar('start: "a"\n%llguidance {}'), "%llguidance is not offered"),
    (choice(), "1 to"),
    (choice("a", ""), "empty"),
]


@pytest.mark.parametrize(("constraint", "words"), WRONG)
async def test_what_is_wrong_is_named(constraint: Constraint, words: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await start(constraint)
    assert refused.value.field == constraint.kind.value
    assert words in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (schema({"type": "integer", "multipleOf": 10**9}), "multipleOf"),
        (schema({"anyOf": [{"type": "number", "multipleOf": 1234567.89}]}), "multipleOf"),
        (Constraint(ConstraintKind.JSON_SCHEMA, ('{"multipleOf": 1e999}',)), "multipleOf"),
        (schema({"type": "integer", "multipleOf": 10**400}), "multipleOf"),
        (schema(nested(300)), "recursion"),
        (Constraint(ConstraintKind.JSON_SCHEMA, ('{"not":' * 9000,)), "nested too deeply"),
        (regex("a" * 70_000), "65536"),
        (choice(*"a" * 5000), "4096"),
        (grammar("start: " + "x? " * 20_000 + '\nx: "a" | "ab"'), "too big"),
        (grammar("start: " + "(" * 9000), "nested"),
        (schema({"allOf": [{"anyOf": [{"required": [f"{a}{b}"]} for b in range(9)]}
                           for a in range(9)]}), "too large"),
    ],
)  # fmt: skip
async def test_what_would_take_for_ever_is_refused(constraint: Constraint, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        await start(constraint)


@pytest.mark.parametrize("text", ["a{1000000}", "(a{1000}){1000}", "(.*a){300}", "(a?){5000}a{9}"])
async def test_a_large_expression_costs_no_more_than_its_steps(text: str) -> None:
    matcher = await start(regex(text))
    for _ in range(20):
        matcher.take(int(matcher.allowed()[0]))
    assert not matcher.is_finished


async def test_a_grammar_that_branches_without_bound_is_given_up() -> None:
    branching = grammar("start: x " + "x? " * 1200 + '\nx: "a" | "ab"')
    with pytest.raises(InvalidArgument, match="items") as refused:
        walk(await start(branching, ignore_end=True), random.Random(0))
    assert refused.value.field == "grammar"


async def test_compiled_grammars_are_kept_up_to_a_number() -> None:
    made = compiler()
    for size in (*range(1, KEPT_GRAMMARS + 9), 1):
        await made.matcher(regex(f"a{{{size}}}"), (), ignore_end=False)
    assert repr(made) == f"<GrammarCompiler {KEPT_GRAMMARS} grammars kept>"


async def test_answers_of_one_grammar_do_not_share_a_place() -> None:
    made = compiler()
    first, second = await asyncio.gather(
        *(made.matcher(choice("12", "ab"), (), ignore_end=False) for _ in range(2))
    )
    before = second.allowed()
    first.take(TOKEN["a"])
    assert np.array_equal(second.allowed(), before)
    assert len(first.allowed()) == 1
