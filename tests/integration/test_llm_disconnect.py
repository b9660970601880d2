"""Callers that go away, by cancelling or by dropping the connection: a step later all is free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from mesh.pb import node_pb2, node_pb2_grpc
from services.inference.backends.backend import BackendSettings
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.llm.model import LoadedLanguageModel
from tests.integration.failing_backend import FailingBackend, Trouble
from tests.integration.llm_support import open_model
from tests.integration.node_rig import open_node

pytestmark = pytest.mark.model

CHUNK = 32
LONG = tuple(range(1000, 1000 + 10 * CHUNK))
SERVERS = ("native", "grpcio")


@dataclass
class Rig:
    model: LoadedLanguageModel
    runs: Trouble
    address: str

    def answers(self) -> int:
        """How many callers the scheduler knows of."""
        return len(self.model._scheduler._generations)


@pytest.fixture
async def rig(
    request: pytest.FixtureRequest, demo_models: Any, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rig]:
    """A node with one slot, on the server that the test is for."""
    runs = Trouble()
    backend = FailingBackend(OnnxRuntimeBackend(BackendSettings()), runs)
    async with (
        open_model(
            demo_models.smollm2_gguf,
            tmp_path_factory.getbasetemp() / "compiled",
            backends=[backend],
            slots=1,
            prefill_chunk_tokens=CHUNK,
        ) as model,
        open_node([model], request.param) as node,
    ):
        yield Rig(model, runs, node.address)
        runs.go_on()


@dataclass
class Caller:
    """A connection with one generation on it."""

    channel: grpc.aio.Channel
    call: Any

    @classmethod
    def ask(cls, rig: Rig, prompt: tuple[int, ...], max_tokens: int = 9) -> Caller:
        # A connection of its own: channels to one address share theirs.
        channel = grpc.aio.insecure_channel(
            rig.address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        request = node_pb2.GenerateRequest(
            model_name="smollm2",
            token_ids=node_pb2.TokenIds(ids=prompt),
            sampling=node_pb2.Sampling(temperature=0),
            max_tokens=max_tokens,
            ignore_eos=True,
        )
        stub = node_pb2_grpc.NodeStub(channel)  # type: ignore[no-untyped-call]
        return cls(channel, stub.Generate(request))

    async def tokens(self) -> list[int]:
        return [token async for event in self.call for token in event.delta.token_ids]

    async def cancel(self) -> None:
        self.call.cancel()

    async def disconnect(self) -> None:
        await self.channel.close()


EACH_WITH_ONE = [(Caller.disconnect, "native"), (Caller.cancel, "grpcio")]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("rig", SERVERS, indirect=True)
@pytest.mark.parametrize("leave", [Caller.cancel, Caller.disconnect])
async def test_a_caller_that_goes_away_during_its_prompt_costs_no_further_run(
    rig: Rig, leave: Callable[[Caller], Any]
) -> None:
    rig.runs.hold(after=3)
    caller = Caller.ask(rig, LONG)
    await until(lambda: rig.runs.runs == 3 and rig.model.occupancy.running)
    await leave(caller)
    await until(lambda: not rig.answers())
    rig.runs.go_on()
    await until(lambda: not rig.model.occupancy.running)
    assert rig.runs.runs <= 4  # the one that stood at the gate, and none of the six others
    assert len(await Caller.ask(rig, (1, 2, 3)).tokens()) == 9


@pytest.mark.parametrize(("leave", "rig"), EACH_WITH_ONE, indirect=["rig"])
async def test_a_caller_that_goes_away_in_the_queue_is_never_computed(
    rig: Rig, leave: Callable[[Caller], Any]
) -> None:
    rig.runs.hold(after=1)
    running = asyncio.create_task(Caller.ask(rig, (1, 2, 3)).tokens())
    await until(lambda: rig.runs.runs == 1 and rig.model.occupancy.running)
    waiting = Caller.ask(rig, LONG)
    await until(lambda: rig.model.occupancy.waiting)
    await leave(waiting)
    await until(lambda: rig.answers() == 1)
    rig.runs.go_on()
    assert len(await running) == 9
    await until(lambda: not rig.model.occupancy.waiting)
    assert rig.runs.runs == 9  # a prompt and eight tokens


@pytest.mark.parametrize(("leave", "rig"), EACH_WITH_ONE, indirect=["rig"])
async def test_a_caller_that_goes_away_between_tokens_makes_room_for_the_next(
    rig: Rig, leave: Callable[[Caller], Any]
) -> None:
    rig.runs.hold(after=5)
    caller = Caller.ask(rig, (1, 2, 3), max_tokens=1000)
    await until(lambda: rig.runs.runs == 5)
    waiting = asyncio.create_task(Caller.ask(rig, (4, 5, 6)).tokens())
    await until(lambda: rig.model.occupancy.waiting)
    await leave(caller)
    await until(lambda: rig.answers() == 1)
    rig.runs.go_on()
    assert len(await waiting) == 9
    assert rig.runs.runs <= 6 + 9  # the run that stood at the gate, then the other's
