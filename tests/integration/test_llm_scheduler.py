"""Batching must not change an answer: the real model under random arrivals and cancellations."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from mesh.errors import DeadlineExceeded, InvalidArgument, QueueFull, Unavailable
from services.inference.backends.backend import BackendSettings
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.llm.chat_template import ChatMessage
from services.inference.llm.model import Text
from services.inference.llm.request import (
    Delta,
    Finished,
    FinishReason,
    GenerationRequest,
    SamplingRequest,
    Started,
)
from tests.integration.failing_backend import FailingBackend, Trouble
from tests.integration.llm_support import chat, golden, golden_request, open_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from services.inference.llm.model import LoadedLanguageModel

pytestmark = pytest.mark.model

GREEDY = SamplingRequest(temperature=0)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "compiled"


def mixed_requests(count: int) -> list[GenerationRequest]:
    """Greedy and seeded, short and long, some that share a beginning."""
    chance = random.Random(7)
    prompts = [golden_request(case, 1).prompt for case in golden()["generations"]]
    return [
        GenerationRequest(
            chance.choice(prompts),
            SamplingRequest(
                temperature=chance.choice([0.0, 0.7, 1.2]),
                top_p=chance.choice([None, 0.9]),
                top_k=chance.choice([None, 40]),
                repetition_penalty=chance.choice([None, 1.1]),
                seed=chance.randrange(2**64),
            ),
            max_tokens=chance.randrange(1, 24),
            stop=chance.choice([(), (" the", "\n\n")]),
            logprobs=chance.choice([None, None, 2]),
            session=chance.choice([None, "ann", "bob"]),
            priority=chance.choice([-1, 0, 0, 1]),
        )
        for _ in range(count)
    ]


async def alone(model: LoadedLanguageModel, requests: Sequence[GenerationRequest]) -> list[Text]:
    return [await model.generate_text(request) for request in requests]


async def leave_after(model: LoadedLanguageModel, request: GenerationRequest, events: int) -> None:
    async with contextlib.aclosing(model.generate(request)) as stream:
        async for _ in stream:
            events -= 1
            if events <= 0:
                return


@pytest.mark.parametrize(("weights", "count"), [("int8", 24), ("fp32", 10)])
async def test_a_batched_answer_is_the_answer_alone(
    demo_models: Any, cache_dir: Path, weights: str, count: int
) -> None:
    requests = mixed_requests(count)
    chance = random.Random(11)
    async with open_model(
        demo_models.smollm2_gguf,
        cache_dir,
        weights=weights,
        slots=6,
        prefill_chunk_tokens=48,
        max_context_tokens=1024,
    ) as model:
        expected = await alone(model, requests)
        # Each arrives when a random number of others' events have gone by.
        answers: list[asyncio.Task[Text]] = []
        leavers: list[asyncio.Task[None]] = []
        for request in requests:
            await leave_after(model, GenerationRequest("The", GREEDY), chance.randrange(1, 4))
            answers.append(asyncio.create_task(model.generate_text(request)))
            if chance.random() < 0.4:
                left = GenerationRequest(chance.choice(requests).prompt, max_tokens=64)
                leavers.append(
                    asyncio.create_task(leave_after(model, left, chance.randrange(1, 12)))
                )
        together = await asyncio.gather(*answers)
        await asyncio.gather(*leavers)
        await idle(model)
    for request, one, other in zip(requests, expected, together, strict=True):
        assert one.token_ids == other.token_ids, request
        assert one.text == other.text
        assert one.finished.reason == other.finished.reason
    assert max(answer.finished.largest_batch for answer in together) > 2


async def idle(model: LoadedLanguageModel) -> None:
    while model.occupancy.running or model.occupancy.waiting:
        await asyncio.sleep(0)


async def test_eight_decode_together_and_the_rest_wait_their_turn(
    demo_models: Any, cache_dir: Path
) -> None:
    async with open_model(demo_models.smollm2_gguf, cache_dir) as model:
        request = GenerationRequest("Once upon a time", GREEDY, max_tokens=40, ignore_eos=True)
        answers = await asyncio.gather(*(model.generate_text(request) for _ in range(12)))
    assert {answer.finished.largest_batch for answer in answers[:8]} == {8}
    assert {answer.text for answer in answers} == {answers[0].text}
    assert answers[-1].finished.queue_us > answers[0].finished.queue_us


async def test_a_later_turn_reuses_the_earlier_ones(demo_models: Any, cache_dir: Path) -> None:
    async with open_model(demo_models.smollm2_gguf, cache_dir) as model:
        story = golden()["perplexity"]["text"][:1200]
        first = chat(("user", f"Remember this. {story}"))
        answer = await model.generate_text(GenerationRequest(first, GREEDY, max_tokens=16))
        more = (*first, ChatMessage("assistant", answer.text), ChatMessage("user", "Thanks!"))
        second = await model.generate_text(GenerationRequest(more, GREEDY, max_tokens=16))
    assert answer.started.cached_tokens == 0
    assert second.started.cached_tokens > 0.9 * answer.started.prompt_tokens
    async with open_model(demo_models.smollm2_gguf, cache_dir) as model:
        cold = await model.generate_text(GenerationRequest(more, GREEDY, max_tokens=16))
    assert cold.started.cached_tokens == 0
    assert cold.token_ids == second.token_ids


async def test_a_broken_off_answer_is_taken_up_by_another_node(
    demo_models: Any, cache_dir: Path
) -> None:
    sampling = SamplingRequest(temperature=0.8, seed=3)
    prompt = chat(("user", "Tell me a short story about a fox."))
    whole = GenerationRequest(prompt, sampling, max_tokens=32)
    async with open_model(demo_models.smollm2_gguf, cache_dir) as first:
        expected = await first.generate_text(whole)
    async with open_model(demo_models.smollm2_gguf, cache_dir) as second:
        for delivered in (1, 2, 5, 13, 20, 31):
            resumed = expected.token_ids[:delivered]
            rest = await second.generate_text(
                GenerationRequest(prompt, sampling, max_tokens=32, resume_token_ids=resumed)
            )
            assert resumed + rest.token_ids == expected.token_ids
            assert expected.text.endswith(rest.text)
            assert rest.finished.completion_tokens == 32
        done = await second.generate_text(
            GenerationRequest(
                prompt, sampling, max_tokens=13, resume_token_ids=expected.token_ids[:13]
            )
        )
    assert (done.token_ids, done.finished.reason) == ((), FinishReason.LENGTH)


async def test_an_answer_that_gave_way_goes_on_to_the_bit(
    demo_models: Any, cache_dir: Path
) -> None:
    registry = CollectorRegistry()
    sampling = SamplingRequest(temperature=0.9, seed=11)
    lesser = GenerationRequest(
        "Once upon a time", sampling, max_tokens=60, ignore_eos=True, priority=1
    )
    urgent = GenerationRequest("The", GREEDY, max_tokens=6, ignore_eos=True)
    runs = Trouble()
    backends = [FailingBackend(OnnxRuntimeBackend(BackendSettings()), runs)]
    async with open_model(
        demo_models.smollm2_gguf, cache_dir, registry, backends=backends, slots=1
    ) as model:
        expected = await alone(model, [lesser, urgent])
        runs.hold(after=20)
        stream = model.generate(lesser)
        events = [await anext(stream)]
        asked = asyncio.create_task(model.generate_text(urgent))
        while not model.occupancy.waiting:
            await asyncio.sleep(0)
        runs.go_on()
        second = await asked
        events += [event async for event in stream]
    tokens = [token for event in events if isinstance(event, Delta) for token in event.token_ids]
    assert tuple(tokens) == expected[0].token_ids
    assert second.token_ids == expected[1].token_ids
    assert sum(isinstance(event, Started) for event in events) == 1
    labels = {"model_name": "smollm2", "engine": "1"}
    assert registry.get_sample_value("vllm:num_preemptions_total", labels) == 1


async def test_tokens_are_streamed_as_they_are_made(demo_models: Any, cache_dir: Path) -> None:
    async with open_model(demo_models.smollm2_gguf, cache_dir) as model:
        request = GenerationRequest("One, two,", GREEDY, max_tokens=12, logprobs=2, ignore_eos=True)
        events = [event async for event in model.generate(request)]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert len(deltas) > 6
    times = [delta.at_ns for delta in deltas]
    assert times == sorted(times)
    for delta in deltas:
        assert [entry.token for entry in delta.logprobs] == list(delta.token_ids)
        for entry in delta.logprobs:
            assert entry.top[0] == (entry.token, entry.logprob)
            assert len(entry.top) == 2


async def test_leaving_frees_the_slot(demo_models: Any, cache_dir: Path) -> None:
    async with open_model(demo_models.smollm2_gguf, cache_dir, slots=1) as model:
        endless = GenerationRequest("The", GREEDY, max_tokens=2000, ignore_eos=True)
        await leave_after(model, endless, 3)
        answer = await model.generate_text(GenerationRequest("The", GREEDY, max_tokens=2))
        assert answer.finished.completion_tokens == 2
        await idle(model)


async def test_a_full_queue_says_when_to_come_back(demo_models: Any, cache_dir: Path) -> None:
    async with open_model(demo_models.smollm2_gguf, cache_dir, slots=1, max_queue=1) as model:
        endless = GenerationRequest("The", GREEDY, max_tokens=2000, ignore_eos=True)
        async with contextlib.aclosing(model.generate(endless)) as running:
            await anext(running)
            waiting = asyncio.create_task(leave_after(model, endless, 1))
            while not model.occupancy.waiting:
                await asyncio.sleep(0)
            with pytest.raises(QueueFull) as refused:
                await model.generate_text(endless)
            assert refused.value.retry_after_s is not None
            waiting.cancel()
            await asyncio.wait([waiting])


async def test_a_deadline_ends_a_request_in_the_queue_and_in_a_slot(
    demo_models: Any, cache_dir: Path
) -> None:
    async with open_model(demo_models.smollm2_gguf, cache_dir, slots=1) as model:
        endless = GenerationRequest("The", GREEDY, max_tokens=2000, ignore_eos=True, timeout_s=0.3)
        running = asyncio.create_task(model.generate_text(endless))
        queued = asyncio.create_task(model.generate_text(endless))
        for task in (running, queued):
            with pytest.raises(DeadlineExceeded):
                await task
        await idle(model)


async def test_closing_ends_what_is_running(demo_models: Any, cache_dir: Path) -> None:
    async with open_model(demo_models.smollm2_gguf, cache_dir) as model:
        endless = GenerationRequest("The", GREEDY, max_tokens=2000, ignore_eos=True)
        stream = model.generate(endless)
        await anext(stream)
        await model.close()
        with pytest.raises(Unavailable):
            async for _ in stream:
                pass
        with pytest.raises(Unavailable):
            await model.generate_text(endless)


@pytest.mark.parametrize(
    ("request_", "field", "words"),
    [
        (GenerationRequest(""), "prompt", "empty"),
        (GenerationRequest(()), "prompt", "empty"),
        (GenerationRequest((1, 2, 49152)), "prompt", "49152"),
        (GenerationRequest((1, -1)), "prompt", "-1"),
        (GenerationRequest("word " * 300), "prompt", "255"),
        (GenerationRequest("word " * 1_000_000), "prompt", "255"),
        (GenerationRequest("Hi", resume_token_ids=(99999,)), "resume_token_ids", "99999"),
        (GenerationRequest("Hi", max_tokens=-1), "max_tokens", "-1"),
        (GenerationRequest("Hi", SamplingRequest(temperature=99)), "temperature", "99"),
    ],
)
async def test_a_wrong_request_is_refused_by_field(
    demo_models: Any, cache_dir: Path, request_: GenerationRequest, field: str, words: str
) -> None:
    async with open_model(demo_models.smollm2_gguf, cache_dir, max_context_tokens=256) as model:
        with pytest.raises(InvalidArgument, match=words) as refused:
            await model.generate_text(request_)
        assert refused.value.field == field
        assert model.occupancy.running == 0
