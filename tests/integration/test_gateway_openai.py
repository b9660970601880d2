"""OpenAI's API through the gateway: an unmodified openai client, and raw requests."""

import asyncio
import json
from collections.abc import AsyncIterator

import openai
import pytest
import pytest_asyncio

from services.gateway.affinity import affinity_key
from tests.integration.gateway_node_servicer import WORDS, text_of
from tests.integration.gateway_rig import Rig, make_deployment, make_watch

USER = {"role": "user", "content": "hello"}
CHAT = {"model": "smollm2", "messages": [USER]}


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def client(gateway: Rig) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"http://{gateway.http}/v1", api_key="none", max_retries=0
    ) as opened:
        yield opened


async def test_models_are_listed_and_found(client) -> None:
    listed = [model.id async for model in client.models.list()]
    assert listed == ["identity", "minilm", "smollm2"]
    assert (await client.models.retrieve("smollm2@champion")).id == "smollm2@champion"
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        await client.models.retrieve("gpt-9")


async def test_a_chat_answers(gateway: Rig, client) -> None:
    answer = await client.chat.completions.create(
        **CHAT, max_completion_tokens=3, stop=["END", "."]
    )
    assert answer.id.startswith("chatcmpl-")
    assert (answer.model, answer.system_fingerprint) == ("smollm2", "smollm2@1")
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", text_of(3))
    assert choice.finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 3)
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    sent = gateway.node.generations[0]
    assert (sent.max_tokens, list(sent.stop)) == (3, ["END", "."])
    assert sent.sampling.HasField("seed")
    assert not sent.sampling.HasField("temperature")


async def test_every_sampling_field_reaches_the_node(gateway: Rig, client) -> None:
    await client.chat.completions.create(
        **CHAT,
        temperature=0.5,
        top_p=0.25,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=-1,
        extra_body={"top_k": 3, "min_p": 0.125, "repetition_penalty": 1.5, "ignore_eos": True},
    )
    sampling = gateway.node.generations[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.25, 3)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.125, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert sampling.seed == 2**64 - 1
    assert gateway.node.generations[0].ignore_eos


async def test_a_chat_streams(client) -> None:
    stream = await client.chat.completions.create(
        **CHAT, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    deltas = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(deltas) == text_of()
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == WORDS
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_raw_stream_is_framed_and_ends_with_done(http) -> None:
    answer = await http.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-ringmesh-node"] == "node-1"
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert all("usage" not in chunk for chunk in chunks)


async def test_several_choices_differ_in_their_seeds_only(gateway: Rig, client) -> None:
    answer = await client.chat.completions.create(**CHAT, n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.prompt_tokens == 5
    assert answer.usage.completion_tokens == 3 * WORDS
    assert sorted(each.sampling.seed for each in gateway.node.generations) == [7, 8, 9]


async def test_several_choices_stream_side_by_side(client) -> None:
    stream = await client.chat.completions.create(
        **CHAT, n=2, stream=True, stream_options={"include_usage": True}
    )
    texts, usage = {0: "", 1: ""}, None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: text_of(), 1: text_of()}
    assert usage.completion_tokens == 2 * WORDS


async def test_log_probabilities_whole_and_streamed(client) -> None:
    options = {**CHAT, "logprobs": True, "top_logprobs": 1, "max_tokens": 2}
    answer = await client.chat.completions.create(**options)
    whole = answer.choices[0].logprobs.content
    assert [token.token for token in whole] == ["w0 ", "w1 "]
    assert whole[0].top_logprobs[0].logprob == -0.5
    stream = await client.chat.completions.create(**options, stream=True)
    streamed = []
    async for chunk in stream:
        for choice in chunk.choices:
            streamed.extend(choice.logprobs.content if choice.logprobs else ())
    assert streamed == whole


async def test_completions_of_text_tokens_and_lists(gateway: Rig, client) -> None:
    answer = await client.completions.create(model="smollm2", prompt=["a", "b"], n=2, logprobs=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert sorted(each.text for each in gateway.node.generations) == ["a", "a", "b", "b"]
    assert answer.usage.prompt_tokens == 10
    assert answer.choices[0].text == text_of()
    assert answer.choices[0].logprobs.text_offset[:3] == [0, 3, 6]
    await client.completions.create(model="smollm2", prompt=[1, 2, 3])
    assert list(gateway.node.generations[-1].token_ids.ids) == [1, 2, 3]
    assert gateway.node.generations[-1].max_tokens == 16


async def test_completions_stream(client) -> None:
    stream = await client.completions.create(
        model="smollm2", prompt="a", max_tokens=4, stream=True, logprobs=0
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == text_of(4)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[1].choices[0].logprobs.text_offset == [3]


@pytest.mark.parametrize("encoding", ["float", "base64", None])
async def test_embeddings_in_each_encoding(client, encoding: str | None) -> None:
    options = {} if encoding is None else {"encoding_format": encoding}
    answer = await client.embeddings.create(model="minilm", input=["ab", "a b c"], **options)
    assert [item.index for item in answer.data] == [0, 1]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4
    if encoding != "base64":
        assert [list(item.embedding) for item in answer.data] == [[2.0, 0.5], [5.0, 0.5]]
    else:
        assert answer.data[0].embedding == "AAAAQAAAAD8="


async def test_one_text_is_one_embedding(client) -> None:
    assert len((await client.embeddings.create(model="minilm", input="x")).data) == 1


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("chat/completions", {"max_tokens": -5}, "max_tokens"),
        ("chat/completions", {"max_tokens": "many"}, "max_tokens"),
        ("chat/completions", {"max_tokens": 2**40}, "max_tokens"),
        ("chat/completions", {"temperature": 1e9}, "temperature"),
        ("chat/completions", {"temperature": -0.1}, "temperature"),
        ("chat/completions", {"top_p": 0}, "top_p"),
        ("chat/completions", {"n": 0}, "n"),
        ("chat/completions", {"n": 1000}, "n"),
        ("chat/completions", {"seed": 2**70}, "seed"),
        ("chat/completions", {"messages": "hello"}, "messages"),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("chat/completions", {"messages": [{"role": "king", "content": ""}]}, "messages[0].role"),
        (
            "chat/completions",
            {"messages": [USER, {"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[1].content",
        ),
        ("chat/completions", {"stop": [1]}, "stop[0]"),
        ("chat/completions", {"model": None}, "model"),
        ("chat/completions", {"model": ""}, "model"),
        ("chat/completions", {"model": "minilm"}, "model"),
        ("chat/completions", {"tools": [{"type": "function"}]}, "tools"),
        ("chat/completions", {"tool_choice": "required"}, "tool_choice"),
        ("chat/completions", {"response_format": {"type": "xml"}}, "response_format.type"),
        (
            "chat/completions",
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
        ),
        (
            "chat/completions",
            {"guided_regex": "a", "response_format": {"type": "json_object"}},
            "guided_regex",
        ),
        ("chat/completions", {"guided_regex": "("}, "guided_regex"),  # the node: no such syntax
        (
            "completions",
            {"prompt": "x", "structured_outputs": {"regex": "("}},
            "structured_outputs.regex",
        ),
        ("chat/completions", {"logit_bias": {"1": 2}}, "logit_bias"),
        ("chat/completions", {"top_logprobs": 2}, "top_logprobs"),
        ("chat/completions", {"temperature": 2}, "messages"),  # the node: prompt too long
        ("completions", {"prompt": None}, "prompt"),
        ("completions", {"prompt": []}, "prompt"),
        ("completions", {"prompt": [[]]}, "prompt[0]"),
        ("completions", {"prompt": "x", "echo": True}, "echo"),
        ("completions", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("completions", {"prompt": "x", "best_of": 3}, "best_of"),
        ("completions", {"prompt": "x", "temperature": 2}, "prompt"),
        ("embeddings", {"input": "x", "model": "minilm", "dimensions": 8}, "dimensions"),
        ("embeddings", {"input": "x", "model": "smollm2"}, "model"),
        ("embeddings", {"input": [], "model": "minilm"}, "input"),
        ("embeddings", {"input": "", "model": "minilm"}, "input[0]"),
        ("embeddings", {"input": [1, 2], "model": "minilm"}, "input"),
        (
            "embeddings",
            {"input": "x", "model": "minilm", "encoding_format": "x"},
            "encoding_format",
        ),
    ],
)
async def test_wrong_fields_are_named_in_openais_shape(http, path, change, param) -> None:
    answer = await http.post(f"/v1/{path}", json=CHAT | change)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize("body", [b"{nope", b"", b"\xff", b"[" * 100_000])
async def test_malformed_json_says_so(http, body: bytes) -> None:
    answer = await http.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]["message"]


async def test_unknown_fields_are_ignored(http) -> None:
    extra = {"store": True, "metadata": {"a": "b"}, "tools": [], "logit_bias": {}, "x": [1]}
    answer = await http.post("/v1/chat/completions", json=CHAT | extra)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [("nope", 404, "model_not_found"), ("slow", 503, "model_not_ready")],
)
async def test_a_model_that_cannot_answer(gateway: Rig, http, model, status, code) -> None:
    gateway.watch.now = make_watch(make_deployment("slow", "gguf")).now
    answer = await http.post("/v1/chat/completions", json=CHAT | {"model": model})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code
    assert model in error["message"]


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1"])
async def test_unknown_paths_have_openais_shape(http, path: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_path_that_takes_another_method_says_so(http) -> None:
    answer = await http.get("/v1/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "method_not_allowed")
    assert error["message"] == "this path takes only POST"


async def test_parts_of_text_and_roles_are_understood(gateway: Rig, client) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts, "name": "ada"},
        {"role": "assistant", "content": None},
    ]
    await client.chat.completions.create(model="smollm2", messages=messages)
    sent = [(m.role, m.content, m.name) for m in gateway.node.generations[0].chat.messages]
    assert sent == [
        ("system", "be brief", ""),
        ("user", "one\ntwo", "ada"),
        ("assistant", "", ""),
    ]


async def test_the_affinity_key_follows_the_conversation(gateway: Rig, http) -> None:
    async def key(body: dict, **headers: str) -> str | None:
        await http.post("/v1/chat/completions", json=CHAT | body, headers=headers)
        return gateway.node.metadata[-1].get("x-ringmesh-affinity")

    turn = {"messages": [USER, {"role": "assistant", "content": "hi"}, USER]}
    assert await key({}) == await key(turn)
    assert await key({"user": "ada"}) == affinity_key(user="ada")
    assert await key({"user": "ada"}, **{"x-session-id": "s-1"}) == "s-1"
    assert await key({"conversation": {"id": "c"}}) == affinity_key(conversation="c")


async def test_a_client_that_leaves_ends_the_nodes_work(gateway: Rig, http) -> None:
    body = {"model": "smollm2", "prompt": "stall", "stream": True}
    async with http.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200
        await gateway.node.stalled.wait()
    await asyncio.wait_for(gateway.node.cancelled.wait(), 5)


async def test_a_client_that_leaves_before_its_whole_answer_ends_it_too(gateway: Rig, http) -> None:
    body = {"model": "smollm2", "prompt": "stall", "n": 2}
    waiting = asyncio.create_task(http.post("/v1/completions", json=body))
    await gateway.node.stalled.wait()
    waiting.cancel()
    await asyncio.wait_for(gateway.node.cancelled.wait(), 5)
