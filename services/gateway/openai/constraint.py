"""What form a caller wants the text to have: OpenAI's `response_format`, and vLLM's names. Pure.

vLLM's older `guided_*` fields and its newer `structured_outputs` mean the same. A request has one
form at most. What is wrong with a schema or an expression is for the node to say, which has the
grammar library; it is told in the caller's words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mesh.errors import InvalidArgument
from mesh.pb.node_pb2 import Choice, GenerateRequest

MAX_CHOICE_TEXTS = 4096
"""No node takes more."""
LONGEST_NAME_SHOWN = 40
ANY_JSON = "{}"


def _as_schema(value: Any) -> Any:
    """A schema may come as JSON or as the text of it; its size is that of the text as it came."""
    match value:
        case str():
            return value
        case dict() | True:
            return json.dumps(value, ensure_ascii=False)
        case _:
            raise ValueError("must be a JSON schema")


Schema = Annotated[str, BeforeValidator(_as_schema)]
ChoiceTexts = Annotated[list[str], Field(max_length=MAX_CHOICE_TEXTS, fail_fast=True)]


class JsonSchemaFormat(BaseModel):
    """A named schema. It is always kept to, whether `strict` or not; without one, any JSON is."""

    model_config = ConfigDict(strict=True)

    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's field."""

    model_config = ConfigDict(strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(BaseModel):
    """vLLM's field; what else it has there would change the answer, and is refused by name."""

    model_config = ConfigDict(strict=True, extra="allow")

    json_: Annotated[Schema | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    choice: ChoiceTexts | None = None
    grammar: str | None = None


class ConstraintFields(BaseModel):
    """The fields of a request by which it asks for a form."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: str | None = None
    guided_choice: ChoiceTexts | None = None
    guided_grammar: str | None = None


@dataclass(frozen=True, slots=True)
class AskedConstraint:
    """A form: in which field it was asked for, and what the node calls its kind."""

    field: str
    kind: str
    value: Any

    def apply(self, request: GenerateRequest) -> None:
        """Has the node keep to it."""
        if self.kind == "choice":
            request.choice.CopyFrom(Choice(texts=self.value))
        else:
            setattr(request, self.kind, self.value)


def asked_constraint(fields: ConstraintFields) -> AskedConstraint | None:
    """The form that a request asks for.

    Raises:
        InvalidArgument: it asks for none in a field that should, or for several.
    """
    asked = list(_asked(fields))
    if len(asked) > 1:
        first, second = asked[:2]
        raise InvalidArgument(
            f"{first.field} and {second.field} each give the text a form; send one",
            field=second.field,
        )
    return asked[0] if asked else None


def _asked(fields: ConstraintFields) -> Iterator[AskedConstraint]:
    if fields.response_format is not None:
        yield from _of_response_format(fields.response_format)
    if fields.structured_outputs is not None:
        yield from _of_structured_outputs(fields.structured_outputs)
    yield from _given("guided_json", "json_schema", fields.guided_json)
    yield from _given("guided_regex", "regex", fields.guided_regex)
    yield from _given("guided_choice", "choice", fields.guided_choice)
    yield from _given("guided_grammar", "grammar", fields.guided_grammar)


def _of_response_format(asked: ResponseFormat) -> Iterator[AskedConstraint]:
    match asked.type:
        case "text":
            return
        case "json_object":
            yield AskedConstraint("response_format", "json_object", True)
        case "json_schema" if asked.json_schema is None:
            field = "response_format.json_schema"
            raise InvalidArgument(f"{field} is missing", field=field)
        case "json_schema":
            field = "response_format.json_schema.schema"
            schema = asked.json_schema.schema_
            yield AskedConstraint(field, "json_schema", ANY_JSON if schema is None else schema)


def _of_structured_outputs(asked: StructuredOutputs) -> Iterator[AskedConstraint]:
    for name in asked.model_extra or ():
        field = f"structured_outputs.{name[:LONGEST_NAME_SHOWN]}"
        raise InvalidArgument(f"{field} is not supported", field=field)
    found = [
        *_given("structured_outputs.json", "json_schema", asked.json_),
        *_given("structured_outputs.json_object", "json_object", asked.json_object or None),
        *_given("structured_outputs.regex", "regex", asked.regex),
        *_given("structured_outputs.choice", "choice", asked.choice),
        *_given("structured_outputs.grammar", "grammar", asked.grammar),
    ]
    if not found:
        field = "structured_outputs"
        raise InvalidArgument(
            f"{field}: one of json, json_object, regex, choice and grammar is needed", field=field
        )
    yield from found


def _given(field: str, kind: str, value: Any) -> Iterator[AskedConstraint]:
    if value is not None:
        yield AskedConstraint(field, kind, value)
