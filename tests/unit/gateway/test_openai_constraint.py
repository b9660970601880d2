"""What form of text a request asks for, in OpenAI's words and in vLLM's."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from mesh.pb.node_pb2 import GenerateRequest
from mesh.reference import ModelReference
from services.gateway.openai.constraint import asked_constraint
from services.gateway.openai.error import read_request
from services.gateway.openai.refusal import check_chat, check_completion
from services.gateway.openai.request import ChatRequest, CompletionRequest
from services.gateway.openai.text import chat_generation, completion_generations

SCHEMA = {"type": "object", "properties": {"é": {"type": "integer"}}}
USER = {"role": "user", "content": "x"}


def read_chat(**fields) -> ChatRequest:
    body = {"model": "m", "messages": [USER]} | fields
    return read_request(ChatRequest, json.dumps(body).encode())


def sent(**fields) -> GenerateRequest:
    request = read_chat(**fields)
    check_chat(request)
    return chat_generation(request, ModelReference("m"))


def openai_schema(schema, **fields) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema} | fields}


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": openai_schema(SCHEMA)},
        {"response_format": openai_schema(SCHEMA, strict=True, description="d")},
        {"response_format": openai_schema(SCHEMA, strict=False)},
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
    ],
)
def test_a_schema_reaches_the_node_as_json(fields: dict) -> None:
    assert json.loads(sent(**fields).json_schema) == SCHEMA


@pytest.mark.parametrize("named", [{"name": "n"}, {"name": "n", "schema": None}])
def test_a_schema_left_out_is_any_json(named: dict) -> None:
    asked = {"type": "json_schema", "json_schema": named}
    assert sent(response_format=asked).json_schema == "{}"


def test_an_empty_text_is_no_schema_left_out() -> None:
    assert sent(response_format=openai_schema("")).json_schema == ""  # its model refuses it


def test_a_schema_is_as_long_as_its_own_words() -> None:
    assert sent(guided_json={"const": "é😀"}).json_schema == '{"const": "é😀"}'
    with pytest.raises(InvalidArgument, match="not valid JSON"):
        read_request(ChatRequest, rb'{"guided_json": {"const": "\ud800"}}')  # UTF-8 has no such


@pytest.mark.parametrize(
    ("fields", "kind", "value"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", True),
        ({"structured_outputs": {"json_object": True}}, "json_object", True),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"guided_grammar": 'start: "a"'}, "grammar", 'start: "a"'),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, "grammar", 'start: "a"'),
    ],
)
def test_every_kind_has_its_field(fields: dict, kind: str, value) -> None:
    request = sent(**fields)
    assert request.WhichOneof("constraint") == kind
    assert getattr(request, kind) == value


@pytest.mark.parametrize(
    "fields", [{"guided_choice": ["a", "b"]}, {"structured_outputs": {"choice": ["a", "b"]}}]
)
def test_choices_are_a_list(fields: dict) -> None:
    assert list(sent(**fields).choice.texts) == ["a", "b"]


@pytest.mark.parametrize(
    "fields",
    [{}, {"response_format": None}, {"response_format": {"type": "text"}}, {"guided_json": None}],
)
def test_text_has_no_form(fields: dict) -> None:
    assert sent(**fields).WhichOneof("constraint") is None


def test_plain_completions_may_have_a_form_too() -> None:
    body = {"model": "m", "prompt": ["x", "y"], "guided_choice": ["a"]}
    request = read_request(CompletionRequest, json.dumps(body).encode())
    check_completion(request)
    made = list(completion_generations(request, ModelReference("m")))
    assert [list(each.choice.texts) for each in made] == [["a"], ["a"]]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": openai_schema([])}, "response_format.json_schema.schema"),
        ({"response_format": openai_schema(False)}, "response_format.json_schema.schema"),
        ({"guided_json": 5}, "guided_json"),
        ({"guided_regex": ["a"]}, "guided_regex"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"guided_choice": ["a", 1]}, "guided_choice[1]"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"x" * 50: 1, "regex": "a"}}, f"structured_outputs.{'x' * 40}"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs.regex"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex"),
        ({"response_format": openai_schema({}), "guided_choice": ["a"]}, "guided_choice"),
    ],
)
def test_a_wrong_form_is_refused_by_its_field(fields: dict, param: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        sent(**fields)
    assert refused.value.field == param


def test_names_that_are_not_known_are_not_each_an_error() -> None:
    unknown = dict.fromkeys("abc", 1)
    read_chat(structured_outputs=unknown)  # so the first is named, and the others not even counted
    with pytest.raises(InvalidArgument, match=r"structured_outputs\.a is not supported"):
        sent(structured_outputs=unknown)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"function_call": {"name": "f"}}, "function_call"),
    ],
)
def test_tools_are_refused_with_what_there_is_instead(fields: dict, param: str) -> None:
    with pytest.raises(InvalidArgument, match=r"call no tools.*response_format") as refused:
        sent(**fields)
    assert refused.value.field == param


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            "messages[1].tool_calls",
        ),
        (
            {"role": "assistant", "content": None, "function_call": {"name": "f"}},
            "messages[1].function_call",
        ),
        ({"role": "tool", "content": "5", "tool_call_id": "1"}, "messages[1].role"),
    ],
)
def test_a_conversation_with_tools_in_it_is_refused(message: dict, param: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        sent(messages=[USER, message])
    assert refused.value.field == param


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3),
)


@given(st.sampled_from(["response_format", "structured_outputs", "guided_json"]), JSON)
def test_any_value_is_understood_or_named(field: str, value) -> None:
    named = None
    try:
        asked = asked_constraint(read_chat(**{field: value}))
        named = asked.field if asked else field
    except InvalidArgument as error:
        named = error.field
    assert (named or "").startswith(field)
