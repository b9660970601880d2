"""OpenAI's shapes: chunks, whole answers, log probabilities, errors, and what requests mean."""

import codecs
import json
from contextlib import suppress
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mesh.errors import InvalidArgument, ModelNotFound, ModelNotReady, PayloadTooLarge, QueueFull
from mesh.pb import inference_pb2 as oip
from mesh.pb.node_pb2 import FINISH_REASON_LENGTH, Finished, GenerateRequest, TokenLogprob
from mesh.reference import ModelReference
from services.gateway.generation import Finish, spread_seeds
from services.gateway.openai.answer import AnswerForm, ChunkWriter
from services.gateway.openai.embedding import make_infer, split_vectors
from services.gateway.openai.error import error_body, read_request, render_error
from services.gateway.openai.refusal import check_completion
from services.gateway.openai.request import (
    MAX_MESSAGES,
    MAX_PROMPT_TOKENS,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
)
from services.gateway.openai.text import chat_generation, completion_generations
from services.gateway.openai.usage import Usage, count_usage

REFERENCE = ModelReference("m", version=3)
USER = {"role": "user", "content": "x"}
ANY_TEXT = st.text(st.characters(codec="utf-8"))


def form(kind: str = "chat", **fields) -> AnswerForm:
    defaults = {"id": "x-1", "created": 7, "model": 'm"\\', "fingerprint": "m@1"}
    return AnswerForm(kind=kind, **(defaults | {"wants_logprobs": False} | fields))


def parse(event: bytes) -> dict:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    return json.loads(event[6:])


@given(ANY_TEXT, st.sampled_from(["chat", "text"]), st.booleans())
def test_a_text_chunk_says_the_text_and_stays_one_line(text, kind: str, usage: bool) -> None:
    event = ChunkWriter(form(kind), 2, with_usage=usage).text(text)
    assert len(event.decode().splitlines()) == 2  # by Unicode's line breaks as well
    chunk = parse(event)
    choice = chunk["choices"][0]
    assert (choice["delta"]["content"] if kind == "chat" else choice["text"]) == text
    assert (choice["index"], choice["finish_reason"]) == (2, None)
    assert ("usage" in chunk) == usage
    assert chunk["model"] == 'm"\\'


@given(ANY_TEXT)
def test_the_short_way_equals_the_long_way(text: str) -> None:
    whole = form()
    event = ChunkWriter(whole, 0, with_usage=False).text(text)
    delta = {"delta": {"content": text}, "logprobs": None, "finish_reason": None}
    assert parse(event) == json.loads(whole.chunk([{"index": 0, **delta}]))


def test_a_chat_begins_with_its_role_and_ends_with_a_reason() -> None:
    writer = ChunkWriter(form(), 0, with_usage=False)
    assert parse(writer.role())["choices"][0]["delta"]["role"] == "assistant"
    last = parse(writer.finish("stop"))["choices"][0]
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")


def token(text: bytes, *top: bytes) -> TokenLogprob:
    return TokenLogprob(token=text, logprob=-1, top=[TokenLogprob(token=t) for t in top])


def test_logprobs_of_half_a_character_keep_its_bytes() -> None:
    writer = ChunkWriter(form(wants_logprobs=True), 0, with_usage=False)
    event = parse(writer.text("", [token(b"\xe2\x82", b"\xac")]))
    entry = event["choices"][0]["logprobs"]["content"][0]
    assert entry["bytes"] == [0xE2, 0x82]
    assert entry["token"] == "\ufffd"
    assert entry["top_logprobs"][0]["bytes"] == [0xAC]


def test_text_offsets_go_on_over_chunks() -> None:
    writer = ChunkWriter(form("text", wants_logprobs=True), 0, with_usage=False)
    first = parse(writer.text("abc", [token(b"abc")]))["choices"][0]["logprobs"]
    second = parse(writer.text("de", [token(b"d"), token(b"e")]))["choices"][0]["logprobs"]
    assert (first["text_offset"], second["text_offset"]) == ([0], [3, 4])


def streamed_offsets(pieces: list[tuple[str, bytes]]) -> list[int]:
    writer = ChunkWriter(form("text", wants_logprobs=True), 0, with_usage=False)
    chunks = [parse(writer.text(text, [token(data)])) for text, data in pieces]
    return [at for c in chunks for at in c["choices"][0]["logprobs"]["text_offset"]]


def whole_offsets(tokens: list[bytes]) -> list[int]:
    finish = Finish(b"".join(tokens).decode(errors="ignore"), tuple(map(token, tokens)), Finished())
    whole = form("text", wants_logprobs=True).whole([finish], Usage(1, 1))
    return whole["choices"][0]["logprobs"]["text_offset"]


@pytest.mark.parametrize(
    ("pieces", "offsets"),
    [
        ([("", b"a"), ("", b"bc"), ("abcd", b"d")], [0, 1, 3]),  # held back: could become a stop
        ([("", b"\xc3"), ("é", b"\xa9"), ("a", b"a")], [0, 0, 1]),
        ([("a", b"a\xe2\x82"), ("€b", b"\xacb"), ("c", b"c")], [0, 1, 3]),
    ],
)
def test_text_offsets_are_where_tokens_begin_streamed_or_not(
    pieces: list[tuple[str, bytes]], offsets: list[int]
) -> None:
    assert streamed_offsets(pieces) == offsets
    assert whole_offsets([data for _, data in pieces]) == offsets


@given(st.lists(st.binary(max_size=3), max_size=20))
def test_text_offsets_are_the_lengths_of_what_came_before(tokens: list[bytes]) -> None:
    def text(size: int) -> str:
        return codecs.getincrementaldecoder("utf-8")("replace").decode(b"".join(tokens[:size]))

    assert whole_offsets(tokens) == [len(text(size)) for size in range(len(tokens))]


def test_a_whole_answer() -> None:
    finish = Finish("text", (), Finished(reason=FINISH_REASON_LENGTH))
    chat = form().whole([finish], Usage(3, 4, 1))
    assert chat["object"] == "chat.completion"
    assert chat["choices"][0]["message"]["content"] == "text"
    assert chat["choices"][0]["finish_reason"] == "length"
    assert chat["usage"]["total_tokens"] == 7
    plain = form("text").whole([finish], Usage(3, 4))
    assert (plain["object"], plain["choices"][0]["text"]) == ("text_completion", "text")


def test_each_prompt_is_counted_once() -> None:
    started = [SimpleNamespace(prompt_tokens=n, cached_tokens=1) for n in (5, 5, 7, 7)]
    choices = [SimpleNamespace(started=each) for each in started]
    finished = [Finished(completion_tokens=2)] * 4
    assert count_usage(choices, finished, per_prompt=2) == Usage(12, 8, 2)


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (InvalidArgument("no", field="n"), 400, ("invalid_request_error", "n", "invalid_argument")),
        (ModelNotFound("x"), 404, ("invalid_request_error", "model", "model_not_found")),
        (
            ModelNotReady("x", "LOADING"),
            503,
            ("service_unavailable_error", None, "model_not_ready"),
        ),
        (QueueFull("full", 2.6), 429, ("rate_limit_error", None, "queue_full")),
        (PayloadTooLarge("big"), 413, ("invalid_request_error", None, "payload_too_large")),
    ],
)
def test_errors_have_openais_shape(error, status: int, expected) -> None:
    body = error_body(error)["error"]
    assert (body["type"], body["param"], body["code"]) == expected
    assert body["message"] == error.message
    assert render_error(error).status_code == status


def test_a_full_queue_says_when_to_come_back() -> None:
    assert render_error(QueueFull("full", 2.6)).headers["retry-after"] == "3"


def read_chat(**fields) -> ChatRequest:
    body = {"model": "m@3", "messages": [USER]} | fields
    return read_request(ChatRequest, json.dumps(body).encode())


def test_unset_fields_stay_unset_on_the_way_to_the_node() -> None:
    request = chat_generation(read_chat(), REFERENCE)
    assert not request.sampling.ListFields()
    assert not request.HasField("max_tokens")
    assert not request.HasField("logprobs")
    assert (request.model_name, request.model_version) == ("m", "3")


def test_the_newer_name_of_the_limit_wins() -> None:
    request = chat_generation(read_chat(max_tokens=5, max_completion_tokens=3), REFERENCE)
    assert request.max_tokens == 3


def test_nulls_are_as_good_as_absent() -> None:
    names = ["temperature", "top_p", "n", "stop", "seed", "stream", "stream_options", "logit_bias"]
    nulls = dict.fromkeys([*names, "ignore_eos", "priority"])
    made = chat_generation(read_chat(**nulls), REFERENCE)
    assert made.sampling.ListFields() == []
    assert (made.ignore_eos, made.priority) == (False, 0)
    assert not read_chat(stream_options={"include_usage": None}).wants_usage


def said(message: dict) -> str:
    made = chat_generation(read_chat(messages=[USER, message, USER]), REFERENCE)
    return made.chat.messages[1].content


def test_the_assistant_may_say_nothing_or_refuse() -> None:
    refusal = {"type": "refusal", "refusal": "No."}
    text = {"type": "text", "text": "Well,"}
    assert said({"role": "assistant"}) == ""
    assert said({"role": "assistant", "content": None}) == ""
    assert said({"role": "assistant", "content": [text, refusal]}) == "Well,\nNo."


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"role": "user"}, "Field required"),
        ({"role": "system"}, "Field required"),
        ({"role": "user", "content": [{"type": "refusal", "refusal": "No."}]}, "only text is"),
        ({"role": "assistant", "content": [{"type": "refusal"}]}, "needs its refusal"),
        ({"role": "assistant", "content": [{"type": "audio"}]}, "only text and refusal is"),
        ({"role": "assistant", "content": 5}, "valid string"),
    ],
)
def test_a_message_without_its_text_is_refused(message: dict, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as refused:
        said(message)
    assert refused.value.field == "messages[1].content"


@given(st.integers(-(2**63), 2**64 - 1), st.integers(1, 16))
def test_choices_have_seeds_of_their_own(seed: int, count: int) -> None:
    request = chat_generation(read_chat(seed=seed, n=count), REFERENCE)
    seeds = [each.sampling.seed for each in spread_seeds(request, count)]
    assert len(set(seeds)) == count
    assert seeds[0] == seed % 2**64
    assert len({each.sampling.seed for each in spread_seeds(GenerateRequest(), count)}) == count


def test_prompts_come_in_four_forms() -> None:
    def prompts(prompt) -> list:
        body = json.dumps({"model": "m", "prompt": prompt}).encode()
        request = read_request(CompletionRequest, body)
        sent = completion_generations(request, REFERENCE)
        return [each.text or list(each.token_ids.ids) for each in sent]

    assert prompts("a") == ["a"]
    assert prompts(["a", "b"]) == ["a", "b"]
    assert prompts([1, 2]) == [[1, 2]]
    assert prompts([[1, 2], [3]]) == [[1, 2], [3]]


def test_one_request_has_no_more_answers_than_can_wait() -> None:
    def check(prompts: int, choices: int) -> None:
        body = {"model": "m", "prompt": ["x"] * prompts, "n": choices}
        check_completion(read_request(CompletionRequest, json.dumps(body).encode()))

    check(16, 4)
    check(4, 16)
    with pytest.raises(
        InvalidArgument, match="5 choices of 16 prompts are more than 64"
    ) as refused:
        check(16, 5)
    assert refused.value.field == "n"


@pytest.mark.parametrize(
    ("prompt", "field", "problem"),
    [
        ([1] * (MAX_PROMPT_TOKENS + 1), "prompt[0]", f"at most {MAX_PROMPT_TOKENS} items"),
        ([[1], [2] * (MAX_PROMPT_TOKENS + 1)], "prompt[1]", f"at most {MAX_PROMPT_TOKENS} items"),
        ([1, -2], "prompt[0][1]", "greater than or equal to 0"),
        (["a", 3], "prompt[1]", "valid array"),
        ({}, "prompt", "valid array"),
    ],
    ids=["too many", "too many of the second", "negative", "mixed", "object"],
)
def test_a_wrong_prompt_is_named_where_it_is_wrong(prompt, field: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as refused:
        read_request(CompletionRequest, json.dumps({"model": "m", "prompt": prompt}).encode())
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ChatRequest, {"messages": [1, 1, 1]}),
        (ChatRequest, {"stop": [1, 1, 1]}),
        (ChatRequest, {"guided_choice": [1, 1, 1]}),
        (ChatRequest, {"structured_outputs": {"choice": [1, 1, 1]}}),
        (CompletionRequest, {"prompt": [{}, {}, {}]}),
        (CompletionRequest, {"prompt": [[1.5, 1.5, 1.5]]}),
        (CompletionRequest, {"prompt": [[1.5], [1.5], [1.5]]}),
        (EmbeddingRequest, {"input": ["", "", ""]}),
    ],
)
def test_a_list_is_left_at_its_first_wrong_element(kind, fields: dict) -> None:
    body = {"model": "m", "messages": [USER], "prompt": "x", "input": "x"} | fields
    with pytest.raises(ValidationError) as refused:
        kind.model_validate_json(json.dumps(body))
    assert refused.value.error_count() == 1


def test_a_conversation_has_an_end() -> None:
    with pytest.raises(InvalidArgument, match=f"at most {MAX_MESSAGES} items") as refused:
        read_chat(messages=[USER] * (MAX_MESSAGES + 1))
    assert refused.value.field == "messages"


@given(st.recursive(st.none() | st.integers() | st.text(), lambda v: st.lists(v, max_size=3)))
def test_any_value_anywhere_is_understood_or_named(value) -> None:
    for kind, field in (
        (ChatRequest, "messages"),
        (ChatRequest, "stop"),
        (ChatRequest, "temperature"),
        (CompletionRequest, "prompt"),
        (EmbeddingRequest, "input"),
    ):
        body = {"model": "m", "messages": [], "prompt": "x", "input": "x", field: value}
        with suppress(InvalidArgument):
            read_request(kind, json.dumps(body).encode())


@given(st.lists(ANY_TEXT.filter(bool), min_size=1, max_size=5))
def test_texts_become_one_bytes_tensor(texts: list[str]) -> None:
    body = json.dumps({"model": "m", "input": texts}).encode()
    request = make_infer(read_request(EmbeddingRequest, body), "m", "3")
    assert list(request.inputs[0].shape) == [len(texts)]
    assert len(request.raw_input_contents[0]) == sum(4 + len(t.encode()) for t in texts)


def test_vectors_are_the_rows_of_the_tensor() -> None:
    response = oip.ModelInferResponse()
    response.outputs.add(name="other", datatype="INT8", shape=[1])
    response.outputs.add(name="embedding", datatype="FP32", shape=[2, 3])
    response.raw_output_contents.extend([b"x", bytes(range(24))])
    assert [bytes(row) for row in split_vectors(response)] == [
        bytes(range(12)),
        bytes(range(12, 24)),
    ]
