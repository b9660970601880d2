"""The real model held to a form: each answer parses, and none depends on its neighbours."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from mesh.errors import InvalidArgument
from services.inference.llm.constraint import Constraint, ConstraintKind
from services.inference.llm.request import (
    Delta,
    FinishReason,
    GenerationRequest,
    SamplingRequest,
)
from tests.integration.llm_support import chat, open_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.inference.llm.model import Text

pytestmark = pytest.mark.model


def schema(value: Any) -> Constraint:
    return Constraint(ConstraintKind.JSON_SCHEMA, (json.dumps(value),))


PERSON = schema(
    {
        "$defs": {"word": {"type": "string", "minLength": 1, "maxLength": 12}},
        "type": "object",
        "properties": {
            "name": {"$ref": "#/$defs/word"},
            "age": {"type": "integer", "minimum": 1, "maximum": 120},
            "mood": {"enum": ["glad", "sad", "¿qué?", "日本", None]},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/word"}, "maxItems": 3},
        },
        "required": ["name", "age", "mood", "tags"],
        "additionalProperties": False,
    }
)
MATRIX = schema(
    {
        "type": "array",
        "minItems": 2,
        "maxItems": 2,
        "items": {
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "items": {"anyOf": [{"type": "boolean"}, {"enum": [0, 1, 0.5]}]},
        },
    }
)
KANA = Constraint(ConstraintKind.REGEX, (r"[ぁ-ん]{3,8}, [😀-😏]{2}\.",))
DATE = Constraint(ConstraintKind.REGEX, (r"(19|20)[0-9]{2}-[0-1][0-9]-[0-3][0-9]",))
MOOD = Constraint(ConstraintKind.CHOICE, ("positive", "negative", "naïve"))
SUM = Constraint(ConstraintKind.GRAMMAR, ('start: N "+" N "=" N\nN: /[1-9][0-9]?/',))


def is_person(text: str) -> bool:
    person = json.loads(text)
    return (
        list(person) == ["name", "age", "mood", "tags"]
        and 1 <= len(person["name"]) <= 12
        and 1 <= person["age"] <= 120
        and person["mood"] in ("glad", "sad", "¿qué?", "日本", None)
        and len(person["tags"]) <= 3
        and all(1 <= len(tag) <= 12 for tag in person["tags"])
    )


def is_matrix(text: str) -> bool:
    rows = json.loads(text)
    return [len(row) for row in rows] == [2, 2] and all(
        isinstance(cell, bool) or cell in (0, 1, 0.5) for row in rows for cell in row
    )


def matching(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


FORMS: list[tuple[Constraint, Callable[[str], bool]]] = [
    (PERSON, is_person),
    (MATRIX, is_matrix),
    (KANA, matching(r"[ぁ-ん]{3,8}, [😀-😏]{2}\.")),
    (DATE, matching(r"(19|20)\d\d-[01]\d-[0-3]\d")),
    (MOOD, matching("positive|negative|naïve")),
    (SUM, matching(r"[1-9]\d?\+[1-9]\d?=[1-9]\d?")),
]
MANNERS = [
    SamplingRequest(temperature=0),
    SamplingRequest(temperature=0.7, top_p=0.9, seed=11, repetition_penalty=1.2),
    SamplingRequest(temperature=1.5, seed=12),
]
PROMPT = chat(("user", "Describe yourself as JSON with name, age, mood and tags."))


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "compiled"


def ask(constraint: Constraint | None, sampling: SamplingRequest = MANNERS[0]) -> GenerationRequest:
    return GenerationRequest(PROMPT, sampling, max_tokens=160, constraint=constraint)


@pytest.mark.timeout(300)
async def test_every_answer_is_of_its_form_alone_and_among_others(
    demo_models: Any, cache_dir: Path
) -> None:
    plans = [(FORMS[0], MANNERS[0]), *product(FORMS, MANNERS[1:])]
    asked = [ask(form, manner) for (form, _), manner in plans]
    free = [replace(ask(None, manner), max_tokens=24) for manner in MANNERS[1:]]
    async with open_model(demo_models.smollm2_gguf, cache_dir) as model:
        alone = [await model.generate_text(request) for request in asked + free]
        together = await asyncio.gather(*map(model.generate_text, asked + free))
    for answer, ((_, check), _) in zip(together, plans, strict=False):
        assert answer.finished.reason is FinishReason.STOP, answer.text
        assert check(answer.text), answer.text
    for one, other in zip(alone, together, strict=True):
        assert (one.token_ids, one.text) == (other.token_ids, other.text)
    assert max(answer.finished.largest_batch for answer in together) > 4


async def test_a_broken_off_answer_keeps_its_form_elsewhere(
    demo_models: Any, cache_dir: Path
) -> None:
    manner = MANNERS[1]
    async with open_model(demo_models.smollm2_gguf, cache_dir) as first:
        whole = await first.generate_text(ask(PERSON, manner))
    size = len(whole.token_ids)
    async with open_model(demo_models.smollm2_gguf, cache_dir) as second:
        for delivered in (1, size // 3, size - 1, size):
            resumed = whole.token_ids[:delivered]
            rest = await second.generate_text(
                replace(ask(PERSON, manner), resume_token_ids=resumed)
            )
            assert resumed + rest.token_ids == whole.token_ids
            assert whole.text.endswith(rest.text)
            assert rest.finished.reason is FinishReason.STOP
        with pytest.raises(InvalidArgument, match="does not keep to the JSON schema"):
            await second.generate_text(replace(ask(MATRIX), resume_token_ids=whole.token_ids[:4]))


async def test_an_answer_cut_short_says_so(demo_models: Any, cache_dir: Path) -> None:
    async with open_model(demo_models.smollm2_gguf, cache_dir) as model:
        whole = await model.generate_text(ask(PERSON))
        cut = await model.generate_text(replace(ask(PERSON), max_tokens=7))
    assert cut.finished.reason is FinishReason.LENGTH
    assert cut.token_ids == whole.token_ids[:7]


async def test_any_object_and_ignored_ends(demo_models: Any, cache_dir: Path) -> None:
    some = Constraint(ConstraintKind.JSON_OBJECT)
    many = Constraint(ConstraintKind.REGEX, ("(ha ?){1,200}",))
    async with open_model(demo_models.smollm2_gguf, cache_dir) as model:
        answers: list[Text] = [
            await model.generate_text(replace(ask(some), max_tokens=300)),
            await model.generate_text(replace(ask(many), max_tokens=24, ignore_eos=True)),
        ]
    if answers[0].finished.reason is FinishReason.STOP:
        assert isinstance(json.loads(answers[0].text), dict)
    assert answers[0].text.startswith("{")
    assert answers[1].finished.completion_tokens == 24
    assert re.fullmatch("(ha ?)+h?", answers[1].text)


async def test_log_probabilities_are_shared_out_among_the_allowed(
    demo_models: Any, cache_dir: Path
) -> None:
    async with open_model(demo_models.smollm2_gguf, cache_dir) as model:
        request = replace(ask(DATE, MANNERS[2]), logprobs=20)
        events = [event async for event in model.generate(request)]
        entries = [e for event in events if isinstance(event, Delta) for e in event.logprobs]
        allowed = [
            {model.vocabulary.text_bytes(token)[:1] for token, _ in entry.top} for entry in entries
        ]
    assert allowed[0] == {b"1", b"2"}
    assert all(len(entry.top) <= 20 for entry in entries)
    assert all(entry.logprob <= 1e-6 for entry in entries)


WRONG = [
    (schema({"type": "array", "uniqueItems": True}), "json_schema"),
    (Constraint(ConstraintKind.REGEX, ("(",)), "regex"),
    (Constraint(ConstraintKind.GRAMMAR, ("start: nowhere",)), "grammar"),
    (Constraint(ConstraintKind.CHOICE, ()), "choice"),
]


async def test_a_wrong_form_is_refused_before_it_costs_anything(
    demo_models: Any, cache_dir: Path
) -> None:
    async with open_model(demo_models.smollm2_gguf, cache_dir) as model:
        for constraint, field in WRONG:
            with pytest.raises(InvalidArgument) as refused:
                await anext(model.generate(ask(constraint)))
            assert refused.value.field == field
            assert model.occupancy.running == 0
