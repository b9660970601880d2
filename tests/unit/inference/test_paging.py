"""Versions that share memory: out when another needs it, back when asked for, always announced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise

import pytest

from mesh.deployment import Assignment
from mesh.errors import DeadlineExceeded, FailedPrecondition, ModelNotReady, Unavailable
from mesh.infer_stream import DEPTH, answer_stream
from mesh.pb.inference_pb2 import ModelInferRequest, ModelInferResponse
from services.inference.models import version_lifetime
from services.inference.models.memory import Memory
from services.inference.models.state import Change, ModelState, ModelStatus
from services.inference.models.table import ModelTable
from services.inference.models.version_lifetime import VersionLifetime
from tests.unit.inference.test_placement_watch import assignment

BUDGET = 100


class Model:
    """A model that takes memory, and may be closed once."""

    backend, version = "test", 1

    def __init__(self, name: str, memory_bytes: int, opened: dict[str, int]) -> None:
        self.name, self.memory_bytes = name, memory_bytes
        self._opened = opened
        opened[name] = opened.get(name, 0) + 1
        self.is_closed = False

    async def warm_up(self) -> None:
        pass

    async def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


class Rig:
    """A node whose models take what their names say: `a-60`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.table = ModelTable(lambda: self.now_s)
        self.memory = Memory(BUDGET, self.table.usage)
        self.table.follow_idle(self.memory.notify)
        self.lifetimes: dict[str, VersionLifetime] = {}
        self.opened: dict[str, int] = {}
        self.models: list[Model] = []
        self.really_takes: dict[str, int] = {}
        self.announced: list[frozenset[str]] = []
        self.failures: dict[str, str] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def open(self, placed: Assignment) -> Model:
        if placed.model in self.failures:
            raise FailedPrecondition(self.failures[placed.model])
        takes = self.really_takes.get(placed.model, await self.measure(placed))
        self.models.append(Model(placed.model, takes, self.opened))
        return self.models[-1]

    async def measure(self, placed: Assignment) -> int:
        return int(placed.model.partition("-")[2])

    async def announce(self) -> None:
        self.announced.append(self.table.ready_references())

    def place(self, name: str, *, may_page: bool = True) -> None:
        self.lifetimes[name] = VersionLifetime(
            assignment(name, 1).model_copy(update={"may_page": may_page}),
            self.table,
            open_model=self.open,
            announce=self.announce,
            loads=asyncio.Semaphore(2),
            unload_timeout_s=60,
            memory=self.memory,
            measure=self.measure,
        )
        self.tasks.append(asyncio.create_task(self.lifetimes[name].run()))

    async def placed(self, name: str, *, may_page: bool = True) -> None:
        self.place(name, may_page=may_page)
        await self.until(lambda: self.status(name).state is ModelState.READY)
        self.now_s += 1

    def reassign(self, name: str, *, may_page: bool) -> None:
        lifetime = self.lifetimes[name]
        lifetime.reassign(lifetime.assignment.model_copy(update={"may_page": may_page}))

    def status(self, name: str) -> ModelStatus:
        found = (each for each in self.table.statuses() if each.model == name)
        return next(found, ModelStatus(name, 1))

    async def call(self, name: str, timeout_s: float | None = None) -> Model:
        self.now_s += 1

        async def one() -> Model:
            model: Model = await self.table.resolve(name, "1", None, timeout_s)
            assert not model.is_closed
            return model

        return await asyncio.create_task(one())

    async def answer(self, request: ModelInferRequest) -> AsyncGenerator[ModelInferResponse]:
        model = await self.table.resolve(request.model_name, "1", None)
        assert not model.is_closed
        yield ModelInferResponse(model_name=model.name)

    async def stream(self, *names: str) -> AsyncGenerator[str]:
        """One stream with a request for each name; who answered, in their order."""

        async def requests() -> AsyncIterator[ModelInferRequest]:
            for name in names:
                yield ModelInferRequest(model_name=name)

        made = answer_stream(requests(), self.answer, is_decoupled=lambda _: False)
        async with aclosing(made) as responses:
            async for response in responses:
                yield response.infer_response.model_name

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)

    @asynccontextmanager
    async def calling(self, name: str) -> AsyncIterator[None]:
        """A call that goes on until the block is left."""
        begun, may_end = asyncio.Event(), asyncio.Event()

        async def call() -> None:
            model = await self.table.resolve(name, "1", None)
            begun.set()
            await may_end.wait()
            assert not model.is_closed

        task = asyncio.create_task(call())
        await begun.wait()
        try:
            yield
        finally:
            may_end.set()
            await task


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(version_lifetime, "FIRST_RETRY_S", 0.001)
    made = Rig()
    yield made
    for lifetime in made.lifetimes.values():
        lifetime.remove()
    await asyncio.gather(*made.tasks)


async def test_the_longest_unused_makes_room_and_comes_back_when_asked(rig: Rig) -> None:
    await rig.placed("a-60")
    await rig.placed("b-30")
    await rig.call("a-60")
    await rig.placed("c-40")  # b goes, though it came later: a has been used since
    assert rig.status("b-30").state is ModelState.READY
    assert rig.status("b-30").reason == "paged out to make room for c-40@1"
    assert (rig.status("b-30").memory_bytes, rig.status("b-30").backend) == (0, "")
    assert (await rig.call("b-30")).name == "b-30"
    assert rig.status("a-60").reason == "paged out to make room for b-30@1"
    assert (rig.status("b-30").reason, rig.status("b-30").memory_bytes) == ("", 30)
    assert rig.opened == {"a-60": 1, "b-30": 2, "c-40": 1}


async def test_a_paged_version_stays_announced(rig: Rig) -> None:
    for name in ("a-60", "b-60", "c-60"):
        await rig.placed(name)
    for name in ("a-60", "c-60", "b-60", "a-60"):
        await rig.call(name)
    assert all(later >= earlier for earlier, later in pairwise(rig.announced))
    assert rig.announced[-1] == {"a-60@1", "b-60@1", "c-60@1"}


async def test_many_callers_bring_a_version_back_once(rig: Rig) -> None:
    await rig.placed("a-60")
    await rig.placed("b-60")
    models = await asyncio.gather(*(rig.call("a-60") for _ in range(20)))
    assert len(set(map(id, models))) == 1
    assert rig.opened == {"a-60": 2, "b-60": 1}


async def test_a_busy_version_is_not_taken_from_its_caller(rig: Rig) -> None:
    await rig.placed("a-60")
    await rig.placed("b-60")
    async with rig.calling("b-60"):
        waiting = asyncio.create_task(rig.call("a-60"))
        await rig.until(lambda: rig.status("a-60").reason == "being brought back into memory")
        assert (await rig.call("b-60")).name == "b-60"
        assert not waiting.done()
    assert (await waiting).name == "a-60"
    assert rig.status("b-60").reason == "paged out to make room for a-60@1"


async def test_an_answer_in_line_behind_another_gives_its_memory_to_that_one(rig: Rig) -> None:
    await rig.placed("a-60")
    await rig.placed("b-60")
    async with asyncio.timeout(10):
        asked = ("a-60", "b-60", "a-60", "b-60")
        assert [name async for name in rig.stream(*asked)] == list(asked)
        assert (await rig.call("b-60")).name == "b-60"


async def test_an_answer_that_nobody_reads_gives_its_memory_to_others(rig: Rig) -> None:
    await rig.placed("a-60")
    await rig.placed("b-60")
    async with aclosing(rig.stream(*["b-60"] * 5 * DEPTH)) as unread:
        await anext(unread)
        for _ in range(10 * DEPTH):
            await asyncio.sleep(0)  # what is made now is stuck
        assert (await rig.call("a-60", timeout_s=10)).name == "a-60"


async def test_a_caller_waits_no_longer_than_its_deadline(rig: Rig) -> None:
    await rig.placed("a-60")
    await rig.placed("b-60")
    async with rig.calling("b-60"):
        with pytest.raises(DeadlineExceeded, match="a-60 was being brought back"):
            await rig.call("a-60", timeout_s=0.01)
    assert (await rig.call("a-60")).name == "a-60"


async def test_what_may_not_be_paged_stays_and_others_are_refused_with_figures(rig: Rig) -> None:
    await rig.placed("a-60", may_page=False)
    rig.place("b-60")
    await rig.until(lambda: rig.status("b-60").state is ModelState.UNAVAILABLE)
    await rig.until(lambda: "needs" in rig.status("b-60").reason)
    assert rig.status("b-60").reason == (
        "b-60@1 needs 60 bytes of memory, and 40 bytes of 100 bytes are free: a-60@1 has 60 bytes"
    )
    with pytest.raises(ModelNotReady, match="b-60@1 needs 60 bytes"):
        await rig.call("b-60")
    rig.lifetimes["a-60"].remove()
    await rig.until(lambda: rig.status("b-60").state is ModelState.READY)


async def test_a_version_that_cannot_come_back_is_withdrawn_and_tried_again(rig: Rig) -> None:
    await rig.placed("a-60")
    await rig.placed("b-60")
    rig.failures["a-60"] = "the disk is gone"
    with pytest.raises(ModelNotReady, match="the disk is gone"):
        await rig.call("a-60")
    await rig.until(lambda: rig.announced[-1] == {"b-60@1"})
    rig.failures.clear()
    await rig.until(lambda: rig.announced[-1] == {"a-60@1", "b-60@1"})
    assert (await rig.call("a-60")).name == "a-60"


async def test_a_version_may_be_removed_while_it_is_out(rig: Rig) -> None:
    await rig.placed("a-60")
    await rig.placed("b-60")
    rig.lifetimes["a-60"].remove()
    await rig.until(lambda: rig.status("a-60").state is ModelState.UNLOADED)
    with pytest.raises(ModelNotReady, match="UNLOADED"):
        await rig.call("a-60")
    assert rig.announced[-1] == {"b-60@1"}


async def test_paging_may_be_allowed_while_a_version_serves(rig: Rig) -> None:
    await rig.placed("a-60", may_page=False)
    rig.reassign("a-60", may_page=True)
    await rig.placed("b-60")
    assert rig.status("a-60").reason == "paged out to make room for b-60@1"


async def test_a_version_that_is_used_again_before_it_has_left_stays(rig: Rig) -> None:
    await rig.placed("a-60")
    rig.lifetimes["a-60"].page_out("for another")
    async with rig.calling("a-60"):  # begins before a has noticed
        for _ in range(20):
            await asyncio.sleep(0)
        assert (await rig.call("a-60", 5)).name == "a-60"  # waits for nobody
    assert (rig.status("a-60").reason, rig.opened) == ("", {"a-60": 1})
    await rig.placed("b-60")
    assert rig.status("a-60").reason == "paged out to make room for b-60@1"


async def test_a_node_that_stops_refuses_those_who_wait_and_keeps_those_it_answers(
    rig: Rig,
) -> None:
    await rig.placed("a-60")
    await rig.placed("b-60")
    async with rig.calling("b-60"):
        waiting = asyncio.create_task(rig.call("a-60"))  # without a deadline
        await rig.until(lambda: rig.table.usage(("a-60", 1)).waiting == 1)
        rig.table.stop_paging()
        with pytest.raises(Unavailable, match="a-60@1 is paged out; the node stops"):
            await waiting
        with pytest.raises(Unavailable, match="the node stops"):
            await rig.call("a-60")
        assert (await rig.call("b-60")).name == "b-60"


async def test_a_version_that_may_be_paged_no_more_comes_back_though_nobody_asks(rig: Rig) -> None:
    await rig.placed("a-60")
    await rig.placed("b-60")
    rig.reassign("a-60", may_page=False)
    await rig.until(lambda: rig.status("a-60").memory_bytes == 60)
    assert rig.status("b-60").reason == "paged out to make room for a-60@1"
    waiting = asyncio.create_task(rig.call("b-60"))
    with pytest.raises(ModelNotReady, match=r"b-60@1 needs 60 bytes .* a-60@1 has 60 bytes"):
        await waiting


async def test_one_that_can_not_come_back_is_refused_with_figures(rig: Rig) -> None:
    await rig.placed("a-60")
    await rig.placed("b-60")
    for name in ("b-60", "a-60"):
        rig.reassign(name, may_page=False)
    await rig.until(lambda: rig.announced[-1] == {"b-60@1"})
    await rig.until(lambda: "needs" in rig.status("a-60").reason)
    assert rig.status("a-60").reason == (
        "a-60@1 needs 60 bytes of memory, and 40 bytes of 100 bytes are free: b-60@1 has 60 bytes"
    )


async def test_one_that_is_just_leaving_comes_back_too(rig: Rig) -> None:
    await rig.placed("a-60")
    rig.lifetimes["a-60"].page_out("for another")
    rig.reassign("a-60", may_page=False)  # before it has noticed
    await rig.until(lambda: rig.opened["a-60"] == 2)
    await rig.until(lambda: rig.status("a-60").memory_bytes == 60)


async def test_one_that_takes_more_than_was_counted_has_room_made_for_it(rig: Rig) -> None:
    await rig.placed("a-60")
    rig.really_takes["b-30"] = 50
    await rig.placed("b-30")
    assert rig.status("a-60").reason == "paged out to make room for b-30@1"
    assert (rig.status("b-30").memory_bytes, rig.opened["b-30"]) == (50, 1)
    assert (await rig.call("a-60")).name == "a-60"
    assert (await rig.call("b-30")).name == "b-30"  # and is counted right when it comes back
    assert rig.opened == {"a-60": 2, "b-30": 2}


async def test_one_that_takes_more_than_there_is_is_closed_and_not_loaded_again(rig: Rig) -> None:
    await rig.placed("a-60", may_page=False)
    rig.really_takes["b-30"] = 50
    rig.place("b-30")
    await rig.until(lambda: "needs" in rig.status("b-30").reason)
    assert rig.status("b-30").reason == (
        "b-30@1 needs 50 bytes of memory, and 40 bytes of 100 bytes are free: a-60@1 has 60 bytes"
    )
    assert rig.models[-1].is_closed
    assert "<Memory 60 of 100" in repr(rig.memory)
    tries = rig.table.changes(rig.status("b-30"))[Change.LOAD_FAILED]
    await rig.until(lambda: rig.table.changes(rig.status("b-30"))[Change.LOAD_FAILED] > tries)
    assert rig.opened == {"a-60": 1, "b-30": 1}
    rig.lifetimes["a-60"].remove()
    await rig.until(lambda: rig.status("b-30").state is ModelState.READY)
