"""Answers that keep to a form, on the toy backend: each is what it would be alone."""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from services.inference.llm.answer import Task
from services.inference.llm.constraint import Constraint, ConstraintKind
from services.inference.llm.grammar import GrammarCompiler
from services.inference.llm.request import Delta, Event, Finished, FinishReason
from services.inference.llm.scheduler import Scheduler
from tests.unit.llm.scheduling import GREEDY, alone, collect, samplings, scheduling, task, tokens_of
from tests.unit.llm.toy_backend import ToyBackend
from tests.unit.llm.toy_vocabulary import END, make_vocabulary

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

VOCABULARY = make_vocabulary()
NUMBERS = Constraint(ConstraintKind.REGEX, (r"\d{1,4}(, \d{1,4})*",))
OBJECT = Constraint(ConstraintKind.JSON_OBJECT)
ANSWER = Constraint(ConstraintKind.CHOICE, ("yes", "no", "never"))


async def held_to(job: Task, constraint: Constraint | None) -> Task:
    """The task with a matcher of its own."""
    if constraint is None:
        return job
    compiler = GrammarCompiler(VOCABULARY, {END})
    matcher = await compiler.matcher(constraint, job.resumed, ignore_end=not job.end_ids)
    return replace(job, matcher=matcher)


def constrained(slots: int = 4, chunk_tokens: int = 16) -> AbstractAsyncContextManager[Scheduler]:
    return scheduling(
        ToyBackend(slots), text_bytes=VOCABULARY.text_bytes, chunk_tokens=chunk_tokens
    )


def result(events: list[Event]) -> tuple[list[int], FinishReason]:
    finished = events[-1]
    assert isinstance(finished, Finished)
    return tokens_of(events), finished.reason


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


tasks = st.builds(
    lambda prompt, ends, job: replace(
        job, prompt=tuple(prompt), end_ids=job.end_ids if ends else frozenset()
    ),
    st.lists(st.integers(0, END), min_size=1, max_size=40),
    st.booleans(),
    st.builds(task, limit=st.integers(1, 24), sampling=samplings),
)
lives = st.lists(
    st.tuples(
        tasks,
        st.sampled_from([NUMBERS, OBJECT, ANSWER, None, None]),
        st.integers(0, 30),
        st.one_of(st.none(), st.none(), st.integers(0, 6)),
    ),
    min_size=1,
    max_size=10,
)


@settings(deadline=None, max_examples=40)
@given(lives, st.integers(1, 5), st.integers(1, 50))
def test_neighbours_never_change_a_constrained_answer(
    plans: list[tuple[Task, Constraint | None, int, int | None]], slots: int, chunk_tokens: int
) -> None:
    async def live(
        scheduler: Scheduler, job: Task, constraint: Constraint | None, leave_after: int | None
    ) -> None:
        seen: list[Event] = []
        held = await held_to(job, constraint)
        async with contextlib.aclosing(scheduler.generate(held)) as events:
            async for event in events:
                if leave_after is not None and len(seen) >= leave_after:
                    return
                seen.append(event)
        assert result(seen) == alone(await held_to(job, constraint))

    async def main() -> None:
        async with constrained(slots, chunk_tokens) as scheduler, asyncio.TaskGroup() as group:
            for job, constraint, pause, leave_after in plans:
                for _ in range(pause):
                    await asyncio.sleep(0)
                group.create_task(live(scheduler, job, constraint, leave_after))

    asyncio.run(main())


@settings(deadline=None, max_examples=40)
@given(tasks, st.sampled_from([NUMBERS, OBJECT, ANSWER]), st.floats(0, 1))
def test_a_constrained_answer_goes_on_elsewhere(
    job: Task, constraint: Constraint, cut: float
) -> None:
    async def main() -> None:
        whole, reason = alone(await held_to(job, constraint))
        resumed = replace(job, resumed=tuple(whole[: round(cut * len(whole))]))
        async with constrained() as scheduler:
            rest = result(await collect(scheduler, await held_to(resumed, constraint)))
        assert ([*resumed.resumed, *rest[0]], rest[1]) == (whole, reason)

    asyncio.run(main())


async def test_a_complete_text_ends_the_answer_at_once() -> None:
    async with constrained() as scheduler:
        events = await collect(scheduler, await held_to(task(limit=40), ANSWER))
    assert text(events) in ANSWER.sources
    assert result(events)[1] is FinishReason.STOP


async def test_the_limit_cuts_a_text_short() -> None:
    constraint = Constraint(ConstraintKind.REGEX, ("a{30}",))
    async with constrained() as scheduler:
        events = await collect(scheduler, await held_to(task(limit=3), constraint))
    assert re.fullmatch("a{3,6}", text(events))
    assert result(events)[1] is FinishReason.LENGTH


async def test_a_text_that_is_complete_with_the_last_token_is_not_cut_short() -> None:
    constraint = Constraint(ConstraintKind.REGEX, ("[xyz]",))
    async with constrained() as scheduler:
        events = await collect(scheduler, await held_to(task(limit=1), constraint))
    assert result(events)[1] is FinishReason.STOP


async def test_a_stop_string_ends_a_constrained_answer_too() -> None:
    constraint = Constraint(ConstraintKind.REGEX, ("x{5}y{20}",))
    async with constrained() as scheduler:
        job = replace(task(limit=40), stop=("xy",))
        events = await collect(scheduler, await held_to(job, constraint))
    assert text(events) == "xxxx"
    assert result(events)[1] is FinishReason.STOP


async def test_penalties_still_count_among_the_allowed() -> None:
    constraint = Constraint(ConstraintKind.REGEX, ("[xyz]{3}",))
    afraid = replace(GREEDY, presence_penalty=2.0, frequency_penalty=2.0, repetition_penalty=9.0)
    async with constrained() as scheduler:
        events = await collect(scheduler, await held_to(task(sampling=afraid), constraint))
    assert sorted(text(events)) == ["x", "y", "z"]


async def test_log_probabilities_are_those_among_the_allowed() -> None:
    async with constrained() as scheduler:
        job = replace(task(), logprobs=5)
        events = await collect(scheduler, await held_to(job, ANSWER))
    entries = [e for event in events if isinstance(event, Delta) for e in event.logprobs]
    offered = {VOCABULARY.text_bytes(token) for token, _ in entries[0].top}
    assert offered == {b"y", b"yes", b"n", b"no"}
    assert all(any(entry.token == token for token, _ in entry.top) for entry in entries)


async def test_a_grammar_given_up_fails_its_answer_and_no_other() -> None:
    branching = Constraint(
        ConstraintKind.GRAMMAR, ("start: x " + "x? " * 1200 + '\nx: "a" | "ab"',)
    )
    bad = await held_to(replace(task(limit=60), end_ids=frozenset()), branching)
    good = await held_to(task(limit=60), NUMBERS)
    async with constrained(slots=2) as scheduler:
        failed, kept = await asyncio.gather(
            collect(scheduler, bad), collect(scheduler, good), return_exceptions=True
        )
        assert isinstance(failed, InvalidArgument)
        assert failed.field == "grammar"
        assert isinstance(kept, list)
        assert result(kept) == alone(await held_to(task(limit=60), NUMBERS))
        again = await collect(scheduler, await held_to(task(), ANSWER))
    assert text(again) in ANSWER.sources
