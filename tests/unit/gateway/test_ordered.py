"""Answers in the order of their requests, however long each takes."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.ordered import answer_in_order


async def feed(*items: int) -> AsyncIterator[int]:
    for item in items:
        yield item


@given(st.lists(st.integers(0, 5), max_size=20), st.integers(1, 5))
async def test_the_order_is_that_of_the_requests(waits: list[int], depth: int) -> None:
    under_way, most = 0, 0

    async def answer(turns: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(turns):
            await asyncio.sleep(0)
        under_way -= 1
        return turns

    found = [each async for each in answer_in_order(feed(*waits), answer, depth=depth)]
    assert found == waits
    assert most <= depth


async def test_a_failure_ends_it_and_cancels_the_rest() -> None:
    cancelled: list[int] = []

    async def answer(item: int) -> int:
        if item == 1:
            raise ValueError("one")
        try:
            return await asyncio.get_running_loop().create_future() if item else item
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    answers = answer_in_order(feed(0, 1, 2, 3), answer, depth=4)
    assert await anext(answers) == 0
    with pytest.raises(ValueError, match="one"):
        await anext(answers)
    assert sorted(cancelled) == [2, 3]


async def test_leaving_early_cancels_what_is_under_way() -> None:
    async def answer(item: int) -> int:
        return await asyncio.get_running_loop().create_future() if item else item

    before = asyncio.all_tasks()
    answers = answer_in_order(feed(0, 1, 2), answer, depth=2)
    assert await anext(answers) == 0
    await answers.aclose()
    assert asyncio.all_tasks() == before


async def test_a_broken_request_stream_is_told() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise OSError("broken")

    async def answer(item: int) -> int:
        return item

    answers = answer_in_order(broken(), answer, depth=2)
    assert await anext(answers) == 1
    with pytest.raises(OSError, match="broken"):
        await anext(answers)
