"""The form of a text, asked for by the unmodified openai client and by the printed line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from tests.e2e.harness import Mesh
from tests.e2e.test_readme import curl_lines, run

Short = Annotated[str, Field(max_length=12)]


class Pet(BaseModel):
    """Whatever the model makes up."""

    name: Short
    kind: Literal["cat", "dog", "Käfer"]
    age: Annotated[int, Field(ge=0, le=30)]
    toys: Annotated[list[Short], Field(max_length=3)]


ASKED = [{"role": "user", "content": "Describe a pet as JSON with name, kind, age and toys."}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "pet", "schema": Pet.model_json_schema()}}


@pytest.fixture
def client(mesh: Mesh) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{mesh.edge}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def chat(client: openai.OpenAI, **options):
    defaults = {"model": "smollm2", "messages": ASKED, "temperature": 0, "max_tokens": 120}
    return client.chat.completions.create(**(defaults | options))


def test_the_client_parses_into_a_model(client) -> None:
    answer = client.chat.completions.parse(
        model="smollm2", messages=ASKED, temperature=0.9, seed=5, response_format=Pet
    )
    assert isinstance(answer.choices[0].message.parsed, Pet)
    assert answer.choices[0].finish_reason == "stop"


def test_a_stream_has_the_form_too(client) -> None:
    whole = chat(client, response_format=SCHEMA).choices[0].message.content
    pieces = [
        choice.delta.content or ""
        for chunk in chat(client, response_format=SCHEMA, stream=True)
        for choice in chunk.choices
    ]
    assert "".join(pieces) == whole
    assert len(pieces) > 5
    Pet.model_validate_json(whole)


def test_every_choice_has_the_form(client) -> None:
    answer = chat(client, response_format=SCHEMA, n=4, temperature=1.3, seed=2)
    pets = [Pet.model_validate_json(choice.message.content) for choice in answer.choices]
    assert len({pet.model_dump_json() for pet in pets}) > 1


def test_any_object(client) -> None:
    choice = chat(client, response_format={"type": "json_object"}).choices[0]
    assert choice.message.content.startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": "[A-Z][a-z]{2,6}!"}, "[A-Z][a-z]{2,6}!"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"structured_outputs": {"choice": ["ja", "näh"]}}, "ja|näh"),
        ({"structured_outputs": {"grammar": 'start: "x" /[0-9]/'}}, r"x\d"),
        ({"guided_json": {"enum": ["a", 7]}}, '"a"|7'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_vllms_fields(client, fields: dict, pattern: str) -> None:
    assert re.fullmatch(pattern, chat(client, extra_body=fields).choices[0].message.content)
    plain = client.completions.create(model="smollm2", prompt="It is", extra_body=fields)
    assert re.fullmatch(pattern, plain.choices[0].text)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "("}, "guided_regex"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"guided_json": {"type": "strng"}}, "guided_json"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"uniqueItems": True, "type": "array"}},
                }
            },
            "response_format.json_schema.schema",
        ),
        ({"guided_choice": []}, "guided_choice"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_form_is_refused_in_the_callers_words(client, fields: dict, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, extra_body=fields)
    assert refused.value.param == param


def test_the_printed_line_answers_in_its_form(mesh: Mesh, tmp_path: Path) -> None:
    (line,) = (line for line in curl_lines("docs/api.md") if "response_format" in line)
    answer = json.loads(run(mesh, line, tmp_path))
    assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"city", "country"}
    assert answer["choices"][0]["finish_reason"] == "stop"
