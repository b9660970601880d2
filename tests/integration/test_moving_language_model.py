"""A language model moves to another engine under load; every answer comes whole from one engine.

Two engines need not give the same text: their numbers are rounded elsewhere. What is promised is
that an answer is, to the character, what the engine that began it gives alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from mesh.deployment import Assignment, VersionSpec
from mesh.manifest import Manifest
from services.inference.backends.backend import Backend, BackendSettings
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.backends.tensorrt.backend import TensorRtBackend
from services.inference.backends.tensorrt.engine_cache import EngineCache
from services.inference.llm.metrics import LanguageModelMetrics
from services.inference.llm.model import LoadedLanguageModel
from services.inference.llm.opening import open_language_model
from services.inference.llm.request import Delta, GenerationRequest, SamplingRequest, Started
from services.inference.models.improvement import Improvement
from services.inference.models.state import ModelState, ModelStatus
from services.inference.models.table import ModelTable
from services.inference.models.version_lifetime import VersionLifetime
from tests.reference.tiny_decoders import write_folder
from tests.unit.tensorrt.oracle_machine import OracleMachine

STREAMS = 20
TOKENS = 40
MANIFEST = {
    "name": "tiny",
    "task": "text-generation",
    "format": "transformers",
    "precision": "fp32",
    "generation": {"slots": 4, "max_context_tokens": 128, "weights": "fp32", "max_queue": 64},
}
SPEC = VersionSpec(
    version=1, digest="7" * 64, manifest=Manifest.from_json(json.dumps(MANIFEST)), files=()
)
BUILDING = "is being built"
BUILDING_NOTHING = "of []"


def request(number: int) -> GenerationRequest:
    prompt = tuple((number * 31 + 7 * place) % 256 for place in range(5 + number))
    sampling = SamplingRequest(temperature=1.0, seed=number)
    return GenerationRequest(prompt, sampling, max_tokens=TOKENS, ignore_eos=True)


@dataclass
class Stream:
    """One caller's answer as it comes."""

    text: str = ""
    has_started: bool = False

    async def run(self, table: ModelTable, number: int, version: int = 1) -> str:
        model: LoadedLanguageModel = await table.resolve("tiny", str(version), None)
        async with contextlib.aclosing(model.generate(request(number))) as events:
            async for event in events:
                self.has_started |= isinstance(event, Started)
                if isinstance(event, Delta):
                    self.text += event.text
        return self.text


class Node:
    """A node's table with one model, on two engines of the CPU."""

    def __init__(self, folder: Path, machine: OracleMachine) -> None:
        self.machine = machine
        self.table = ModelTable()
        self._folder = write_folder("llama", folder / "model")
        self._cache_dir = folder / "cache"
        self._metrics = LanguageModelMetrics(CollectorRegistry())
        cpu = OnnxRuntimeBackend(BackendSettings(threads=1))
        self.backends: Sequence[Backend] = (cpu, TensorRtBackend(machine, EngineCache(None)))
        self._improve = Improvement()

    async def open(self, assignment: Assignment) -> LoadedLanguageModel:
        return await open_language_model(
            self._folder, assignment.spec, self._cache_dir, self.backends, self._metrics
        )

    async def texts_alone(self, count: int) -> list[str]:
        """What the engine that now opens first answers, one request after the other."""
        model = await self.open(Assignment(model="tiny", spec=SPEC))
        texts = [(await model.generate_text(request(number))).text for number in range(count)]
        await model.close()
        return texts

    @contextlib.asynccontextmanager
    async def serving(self, version: int = 1) -> AsyncIterator[VersionLifetime]:
        async def announce() -> None:
            pass

        spec = SPEC.model_copy(update={"version": version})
        lifetime = VersionLifetime(
            Assignment(model="tiny", spec=spec, may_page=True),
            self.table,
            open_model=self.open,
            announce=announce,
            loads=asyncio.Semaphore(1),
            unload_timeout_s=60,
            improve=self._improve,
            give_up=self._improve.give_up,
        )
        stay = asyncio.create_task(lifetime.run())
        await self.until(lambda status: BUILDING in status.reason, version)
        yield lifetime
        lifetime.remove()
        await stay

    @property
    def status(self) -> ModelStatus:
        return self.status_of(1)

    def status_of(self, version: int) -> ModelStatus:
        return next(each for each in self.table.statuses() if each.version == version)

    async def until(self, condition, version: int = 1) -> None:
        async with asyncio.timeout(60):
            while not (
                any(each.version == version for each in self.table.statuses())
                and condition(self.status_of(version))
            ):
                await self.table.wait_for_change()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    machine = OracleMachine(tmp_path)
    machine.may_build.clear()
    machine.tilt = 0.5  # so that its texts are told from the other engine's
    return Node(tmp_path, machine)


async def test_twenty_streams_lose_nothing_when_their_model_moves(node: Node) -> None:
    before_texts = await node.texts_alone(STREAMS)
    async with node.serving():
        assert node.status.backend == "onnxruntime"
        old = [Stream() for _ in range(STREAMS)]
        running = [
            asyncio.create_task(each.run(node.table, number)) for number, each in enumerate(old)
        ]
        while not old[0].has_started:
            await asyncio.sleep(0)
        node.machine.may_build.set()
        await node.until(lambda status: status.backend == "tensorrt")
        assert node.status.state is ModelState.READY
        assert node.status.reason == "moved from onnxruntime to tensorrt"
        assert len(node.machine.built) == 1
        after = [asyncio.create_task(Stream().run(node.table, number)) for number in range(STREAMS)]
        answers = await asyncio.gather(*running)
        moved = await asyncio.gather(*after)
    after_texts = await node.texts_alone(STREAMS)  # opens there at once: its engine is built
    assert answers == before_texts
    assert moved == after_texts
    assert before_texts != after_texts  # or this test would not see a mixture


async def test_a_build_that_fails_leaves_the_model_where_it_is_and_says_why(node: Node) -> None:
    async with node.serving():
        node.machine.refuse_builds("Error Code 4: not today")
        node.machine.may_build.set()
        await node.until(lambda status: "not today" in status.reason)
        assert "build_failed" in node.status.reason
        assert (node.status.state, node.status.backend) == (ModelState.READY, "onnxruntime")
        assert len(await asyncio.create_task(Stream().run(node.table, 3))) > 0


async def test_an_engine_that_does_not_fit_leaves_the_model_where_it_is(node: Node) -> None:
    async with node.serving():
        node.machine.capacity_bytes = 10_000
        node.machine.may_build.set()
        await node.until(lambda status: "out_of_memory" in status.reason)
        assert (node.status.state, node.status.backend) == (ModelState.READY, "onnxruntime")


async def test_a_removed_model_takes_its_build_with_it(node: Node) -> None:
    async with asyncio.timeout(60):
        async with node.serving():
            assert not node.machine.may_build.is_set()
        assert node.status.state is ModelState.UNLOADED
    assert node.machine.built == []


async def test_a_model_that_leaves_memory_finds_its_build_going_when_it_comes_back(
    node: Node,
) -> None:
    async with node.serving() as lifetime:
        lifetime.page_out("to make room")
        await node.until(lambda status: status.reason == "to make room")
        assert len(await asyncio.create_task(Stream().run(node.table, 1))) > 0
        await node.until(lambda status: BUILDING in status.reason)
        node.machine.may_build.set()
        await node.until(lambda status: status.backend == "tensorrt")
        assert node.machine.begun == 1


async def test_a_model_whose_engine_is_built_while_it_is_away_comes_back_on_it(node: Node) -> None:
    async with node.serving() as lifetime:
        lifetime.page_out("to make room")
        await node.until(lambda status: status.reason == "to make room")
        node.machine.may_build.set()
        while BUILDING_NOTHING not in repr(node._improve):
            await asyncio.sleep(0)
        assert len(await asyncio.create_task(Stream().run(node.table, 1))) > 0
        assert node.status.backend == "tensorrt"
        assert node.machine.begun == 1


async def test_two_versions_of_one_artefact_both_move_and_share_the_engine(node: Node) -> None:
    async with node.serving(1), node.serving(2):
        node.machine.may_build.set()
        for version in (1, 2):
            await node.until(lambda status: status.backend == "tensorrt", version)
        assert len(node.machine.built) == 1


async def test_a_removed_version_leaves_the_other_its_build(node: Node) -> None:
    async with node.serving(2):
        async with node.serving(1):
            pass
        node.machine.may_build.set()
        await node.until(lambda status: status.backend == "tensorrt", 2)
        assert len(node.machine.built) == 1
