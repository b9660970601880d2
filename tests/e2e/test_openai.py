"""The unmodified openai client against the edge."""

from collections.abc import Iterator

import numpy as np
import openai
import pytest

from tests.e2e.harness import Mesh

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


@pytest.fixture
def client(mesh: Mesh) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{mesh.edge}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def chat(client: openai.OpenAI, **options):
    defaults = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 32}
    return client.chat.completions.create(**(defaults | options))


def test_models_are_listed(client) -> None:
    assert {model.id for model in client.models.list()} >= {"smollm2", "minilm", "identity"}
    assert client.models.retrieve("smollm2").id == "smollm2"


def test_a_chat_answers_and_counts(client) -> None:
    answer = chat(client)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage.prompt_tokens > 10
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_stream_gives_the_same_text_piece_by_piece(client) -> None:
    whole = chat(client)
    pieces, reasons, usage = [], [], None
    for chunk in chat(client, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            reasons.append(choice.finish_reason)
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 3
    assert [reason for reason in reasons if reason] == ["stop"]
    assert usage == whole.usage


def test_max_tokens_ends_with_length(client) -> None:
    answer = chat(client, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_a_stop_string_ends_the_text_before_itself(client) -> None:
    answer = chat(client, stop=["Paris"])
    assert answer.choices[0].finish_reason == "stop"
    assert "Paris" not in answer.choices[0].message.content
    assert answer.choices[0].message.content.startswith("The capital")


def test_a_seed_makes_sampling_repeatable(client) -> None:
    first, again, other = (
        chat(client, temperature=1.2, seed=seed, max_tokens=24).choices[0].message.content
        for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_several_choices_are_indexed(client) -> None:
    answer = chat(client, n=3, temperature=1.5, max_tokens=12)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1


def test_log_probabilities_are_given_on_request(client) -> None:
    content = chat(client, logprobs=True, top_logprobs=2, max_tokens=4).choices[0].logprobs.content
    assert len(content) == 4
    for token in content:
        assert token.logprob <= 0
        assert token.top_logprobs[0].logprob == pytest.approx(
            token.logprob
        )  # greedy: the likeliest
        assert len(token.top_logprobs) == 2


def test_completions_go_on_with_the_prompt(client) -> None:
    answer = client.completions.create(
        model="smollm2", prompt="1, 2, 3, 4,", temperature=0, max_tokens=6
    )
    assert "5" in answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    pieces = client.completions.create(
        model="smollm2", prompt="1, 2, 3, 4,", temperature=0, max_tokens=6, stream=True
    )
    text = "".join(chunk.choices[0].text for chunk in pieces if chunk.choices)
    assert text == answer.choices[0].text


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings_in_each_encoding(client, encoding: str | None) -> None:
    options = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model="minilm", input=["hello", "world"], **options)
    assert [item.index for item in answer.data] == [0, 1]
    assert answer.usage.prompt_tokens > 0
    if encoding != "base64":
        assert np.linalg.norm(answer.data[0].embedding) == pytest.approx(1, abs=1e-4)


def test_an_alias_or_version_is_a_model_name(client) -> None:
    assert "Paris" in chat(client, model="smollm2@1").choices[0].message.content


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": 99}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, "messages"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_bad_values_name_the_field(client, options: dict, field: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, **options)
    assert caught.value.type == "invalid_request_error"
    assert field in f"{caught.value.param} {caught.value.message}"


def test_an_unknown_model_is_404(client) -> None:
    with pytest.raises(openai.NotFoundError, match="nope"):
        chat(client, model="nope")


def test_chat_with_an_embedding_model_is_refused(client) -> None:
    with pytest.raises(openai.BadRequestError, match="minilm"):
        chat(client, model="minilm")
