"""Runs that fail one after the other raise a suspicion; a probe that fails confirms it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from mesh.batching_options import BatchingOptions
from mesh.errors import Internal, InvalidArgument, QueueFull
from services.inference.backends.backend import BackendFailed, BackendLost
from services.inference.backends.health import FAILURES_IN_A_ROW
from services.inference.batching.batcher import Batcher, open_batcher
from services.inference.batching.metrics import BatchingMetrics
from services.inference.batching.run import Item, Ran

KNOWN, POISON = 1, 13


class Model:
    """Gives numbers back; 13 fails it, and when it is broken everything does."""

    def __init__(self) -> None:
        self.error: Exception = BackendFailed("out of order")
        self.is_broken = False

    def compute(self, items: Sequence[int], _key: object) -> Ran[int]:
        if self.is_broken or POISON in items:
            raise self.error
        return Ran(list(items))


@asynccontextmanager
async def opened(model: Model) -> AsyncIterator[Batcher[int, int]]:
    meter = BatchingMetrics(CollectorRegistry()).meter("m", 1)
    async with open_batcher(
        "m", [model.compute], BatchingOptions(max_batch_size=4), meter, max_rows=9
    ) as batcher:
        yield batcher


async def ask(batcher: Batcher[int, int], number: int) -> Sequence[int]:
    return (await batcher.submit([Item(number, None)])).results


async def fail(batcher: Batcher[int, int], times: int) -> None:
    for _ in range(times):
        with pytest.raises(Internal):
            await ask(batcher, POISON)


class Probe:
    """Asks for what the model can do, and counts."""

    def __init__(self, batcher: Batcher[int, int], *refusals: Exception) -> None:
        self.batcher = batcher
        self.refusals = list(refusals)
        self.done: asyncio.Queue[bool] = asyncio.Queue()

    async def __call__(self) -> None:
        self.done.put_nowait(True)
        if self.refusals:
            raise self.refusals.pop(0)
        await ask(self.batcher, KNOWN)


@pytest.mark.parametrize("error", [BackendFailed("out of order"), MemoryError("out of order")])
async def test_an_engine_that_fails_at_what_it_could_do_is_broken(error: Exception) -> None:
    model = Model()
    async with opened(model) as batcher:
        assert list(await ask(batcher, KNOWN)) == [KNOWN]
        model.is_broken, model.error = True, error
        await fail(batcher, FAILURES_IN_A_ROW)
        why = await batcher.broken(Probe(batcher))
        assert "runs in a row failed: out of order" in why


async def test_requests_that_nobody_can_answer_do_not_break_an_engine() -> None:
    async with opened(Model()) as batcher:
        probe = Probe(batcher)
        broken = asyncio.create_task(batcher.broken(probe))
        await fail(batcher, 2 * FAILURES_IN_A_ROW)
        await probe.done.get()
        assert list(await ask(batcher, KNOWN)) == [KNOWN]
        assert not broken.done()
        broken.cancel()


async def test_failures_between_successes_raise_no_suspicion() -> None:
    async with opened(Model()) as batcher:
        probe = Probe(batcher)
        broken = asyncio.create_task(batcher.broken(probe))
        for _ in range(4):
            await fail(batcher, FAILURES_IN_A_ROW - 1)
            await ask(batcher, KNOWN)
        assert probe.done.empty()
        broken.cancel()


async def test_a_lost_engine_is_suspected_at_once() -> None:
    model = Model()
    model.is_broken, model.error = True, BackendLost("no such device")
    async with opened(model) as batcher:
        await fail(batcher, 1)
        assert await batcher.broken(Probe(batcher)) == "the engine is lost: no such device"


async def test_a_probe_that_is_refused_proves_nothing() -> None:
    model = Model()
    model.is_broken = True
    async with opened(model) as batcher:
        refusals = QueueFull("full", 1.0), InvalidArgument("odd", field="inputs")
        probe = Probe(batcher, *refusals)
        broken = asyncio.create_task(batcher.broken(probe))
        await fail(batcher, FAILURES_IN_A_ROW)
        for _ in range(len(refusals)):
            await probe.done.get()
            assert not broken.done()
            await fail(batcher, 1)
        assert "in a row" in await broken
