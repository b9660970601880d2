"""A scheduler on the toy backend, and what an answer must be: the same as alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from hypothesis import strategies as st

from services.inference.llm.answer import Task
from services.inference.llm.request import Delta, Event, Finished, FinishReason, Started
from services.inference.llm.sampling import History, Sampling, choose
from services.inference.llm.scheduler import Scheduler, open_scheduler
from tests.unit.llm.toy_backend import VOCABULARY, ToyBackend, logits_after

END = VOCABULARY - 1
GREEDY = Sampling(0.0, 1.0, 0, 0.0, 1.0, 0.0, 0.0, 0)


def text_bytes(token: int) -> bytes:
    return bytes([ord("A") + token % 26])


def task(prompt: tuple[int, ...] = (1, 2, 3), limit: int = 8, sampling: Sampling = GREEDY) -> Task:
    return Task(
        prompt=prompt,
        resumed=(),
        limit=limit,
        sampling=sampling,
        stop=(),
        end_ids=frozenset({END}),
        logprobs=None,
        deadline_s=None,
    )


def alone(job: Task) -> tuple[list[int], FinishReason]:
    """The answer by definition: choose among what is allowed, append, repeat."""
    history, matcher = History.of(job.prompt), job.matcher
    out = list(job.resumed)
    for token in out:
        history.add(token)
    while len(out) < job.limit and not (matcher and matcher.is_finished):
        allowed = None if matcher is None else matcher.allowed()
        logits = logits_after([*job.prompt, *out])
        token = choose(logits, job.sampling, history, len(out), allowed)
        if token in job.end_ids:
            return out, FinishReason.STOP
        if matcher is not None:
            matcher.take(token)
        history.add(token)
        out.append(token)
    is_finished = matcher is not None and matcher.is_finished
    return out, FinishReason.STOP if is_finished else FinishReason.LENGTH


class Meter:
    def __init__(self) -> None:
        self.failed_runs = 0
        self.preemptions = 0

    def count_failed_run(self) -> None:
        self.failed_runs += 1

    def count_preemption(self) -> None:
        self.preemptions += 1


@asynccontextmanager
async def scheduling(
    backend: ToyBackend,
    *,
    chunk_tokens: int = 16,
    max_queue: int = 64,
    text_bytes: Callable[[int], bytes] = text_bytes,
    meter: Meter | None = None,
) -> AsyncIterator[Scheduler]:
    async with open_scheduler(
        backend,
        text_bytes,
        chunk_tokens=chunk_tokens,
        max_queue=max_queue,
        meter=meter or Meter(),
    ) as scheduler:
        yield scheduler
        while scheduler.occupancy.running or scheduler.occupancy.waiting:
            await asyncio.sleep(0)


async def collect(scheduler: Scheduler, job: Task) -> list[Event]:
    async with contextlib.aclosing(scheduler.generate(job)) as events:
        return [event async for event in events]


def tokens_of(events: list[Event]) -> list[int]:
    return [t for event in events if isinstance(event, Delta) for t in event.token_ids]


def check(job: Task, events: list[Event]) -> None:
    expected, reason = alone(job)
    assert [*job.resumed, *tokens_of(events)] == expected
    assert isinstance(events[0], Started)
    assert not any(isinstance(event, Started) for event in events[1:])
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.completion_tokens) == (reason, len(expected))
    assert (finished.prompt_tokens, events[0].prompt_tokens) == (len(job.prompt),) * 2


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_p=st.sampled_from([0.8, 1.0]),
    top_k=st.sampled_from([0, 9]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    frequency_penalty=st.just(0.0),
    seed=st.integers(0, 2**64 - 1),
)
prompts = st.builds(
    lambda shared, own: (5,) * shared + tuple(own),
    st.integers(0, 40),
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40),
)
tasks = st.builds(
    lambda prompt, limit, sampling, resumed, session, priority: replace(
        task(prompt, limit, sampling),
        resumed=tuple(resumed),
        session=session,
        priority=priority,
    ),
    prompts,
    st.integers(1, 20),
    samplings,
    st.lists(st.integers(0, VOCABULARY - 2), max_size=5),
    st.sampled_from([None, None, "a", "b"]),
    st.sampled_from([-1, 0, 0, 1]),
)
