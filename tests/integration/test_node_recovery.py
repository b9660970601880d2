"""An engine that fails: its version is withdrawn, says why, and comes back by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from mesh.catalog import Catalog, Instance
from mesh.deployment import Assignment
from mesh.errors import (
    ModelNotReady,
    RingmeshError,
    Unavailable,
    error_from_rpc,
)
from mesh.health import HealthServicer
from mesh.local.demo_models import DemoModels
from mesh.manifest import Manifest
from mesh.pb import inference_pb2 as oip
from mesh.pb import node_pb2, node_pb2_grpc
from services.inference.backends.backend import BackendFailed, BackendLost, BackendSettings
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.batching.metrics import BatchingMetrics
from services.inference.encoders.sentence_encoder import open_sentence_encoder
from services.inference.llm.metrics import LanguageModelMetrics
from services.inference.llm.opening import open_language_model
from services.inference.models.announcement import Announcement
from services.inference.models.loaded_model import LoadedModel
from services.inference.models.metrics import ModelCollector
from services.inference.models.tensor_place import TensorPlace
from services.inference.models.version_lifetime import VersionLifetime
from tests.integration import llm_support
from tests.integration.consul_rig import ConsulRig
from tests.integration.failing_backend import FailingBackend, Trouble
from tests.integration.node_rig import NODE, NodeRig, open_node, spec_of

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

MINILM = Manifest(name="minilm", task="text-embedding", format="sentence-transformers")
SPECS = {"smollm2": llm_support.spec_of(slots=2), "minilm": spec_of(MINILM)}


@dataclass
class Rig:
    node: NodeRig
    stub: Any
    trouble: Trouble
    catalog: Catalog
    metrics: CollectorRegistry

    async def tagged(self, *tags: str) -> None:
        """Returns when Consul shows the node with these tags."""
        async with asyncio.timeout(90):
            async for instances in self.catalog.watch_instances("inference"):
                if any(each.meta["node"] == NODE and each.tags == set(tags) for each in instances):
                    return

    async def state(self, model: str) -> tuple[str, str]:
        index = await self.node.stub.RepositoryIndex(oip.RepositoryIndexRequest())
        (entry,) = (each for each in index.models if each.name == model)
        (other,) = (await self.stub.ListModels(node_pb2.ListModelsRequest())).models
        assert (other.model, other.reason) == (entry.name, entry.reason)
        return entry.state, entry.reason

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.get_sample_value(name, labels)


@asynccontextmanager
async def serving(
    consul: ConsulRig, demo_models: DemoModels, cache_dir: Path, model: str
) -> AsyncIterator[Rig]:
    """A node on which that model lives its whole life, announced in Consul."""
    trouble, metrics = Trouble(), CollectorRegistry()
    backends = [FailingBackend(OnnxRuntimeBackend(BackendSettings()), trouble)]
    generation = LanguageModelMetrics(metrics)
    place = TensorPlace(cache_dir, backends, BatchingMetrics(metrics), 64)

    async def open_model(assignment: Assignment) -> LoadedModel:
        if model == "minilm":
            return await open_sentence_encoder(demo_models.minilm_folder, assignment.spec, place)
        folder = demo_models.smollm2_gguf.parent
        return await open_language_model(folder, assignment.spec, cache_dir, backends, generation)

    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(open_node([]))
        metrics.register(ModelCollector(node.table))
        catalog = await stack.enter_async_context(Catalog.open(consul.address))
        port = int(node.address.rpartition(":")[2])
        instance = Instance("inference-a", "inference", "127.0.0.1", port, meta={"node": NODE})
        registration = await stack.enter_async_context(catalog.registered(instance))
        lifetime = VersionLifetime(
            Assignment(model=model, spec=SPECS[model]),
            node.table,
            open_model=open_model,
            announce=Announcement(node.table, registration, HealthServicer()).renew,
            loads=asyncio.Semaphore(1),
            unload_timeout_s=10,
        )
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(node.address))
        running = asyncio.create_task(lifetime.run())
        stub = node_pb2_grpc.NodeStub(channel)  # type: ignore[no-untyped-call]
        rig = Rig(node, stub, trouble, catalog, metrics)
        await rig.tagged(f"{model}@1")
        yield rig
        trouble.end()
        lifetime.remove()
        await running


def generate(rig: Rig, text: str, max_tokens: int = 1500) -> Any:
    sampling = node_pb2.Sampling(temperature=0)
    request = node_pb2.GenerateRequest(
        model_name="smollm2",
        text=text,
        sampling=sampling,
        max_tokens=max_tokens,
        ignore_eos=True,
    )
    return rig.stub.Generate(request)


async def tokens_of(call: Any) -> list[int]:
    return [token async for event in call for token in event.delta.token_ids]


async def first_token(call: Any) -> None:
    async for event in call:
        if event.HasField("delta"):
            return


async def failure(call: Awaitable[Any]) -> RingmeshError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return error_from_rpc(failed.value)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(90):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "3 runs in a row failed: out of memory"),
        (BackendLost("no such device"), "the engine is lost: no such device"),
    ],
)
async def test_a_language_model_is_withdrawn_and_comes_back(
    shared_consul: ConsulRig,
    demo_models: DemoModels,
    tmp_path_factory: pytest.TempPathFactory,
    error: Exception,
    reason: str,
) -> None:
    cache_dir = tmp_path_factory.getbasetemp() / "compiled"
    async with serving(shared_consul, demo_models, cache_dir, "smollm2") as rig:
        expected = await tokens_of(generate(rig, "The fox", 12))
        streams = [generate(rig, f"Story {n}:") for n in range(2)]
        for stream in streams:
            await first_token(stream)
        queued = generate(rig, "Waiting")
        model = rig.node.table.find("smollm2", "", None)
        await until(lambda: model.occupancy.waiting)
        rig.trouble.begin(error)
        for call in (*streams, queued):
            failed = await failure(tokens_of(call))
            assert isinstance(failed, Unavailable)
            assert failed.message == reason
        # Without headers: whoever stands between may try another node.
        assert not [key for key, _ in await queued.initial_metadata() if "ringmesh" in key]
        await rig.tagged()
        await until(lambda: rig.count("ringmesh_model_state", **version("loading", "state")))
        assert await rig.state("smollm2") == ("LOADING", reason)
        refused = await failure(tokens_of(generate(rig, "Now")))
        assert isinstance(refused, ModelNotReady)
        assert refused.message == f"model 'smollm2@1' is LOADING: {reason}"
        rig.trouble.end()
        await rig.tagged("smollm2@1")
        assert await rig.state("smollm2") == ("READY", "")
        assert await tokens_of(generate(rig, "The fox", 12)) == expected
        for change in ("broke", "recovered"):
            assert rig.count("ringmesh_model_changes_total", **version(change, "change")) == 1
    assert rig.trouble.opened == 2


def version(value: str, label: str, model: str = "smollm2") -> dict[str, str]:
    return {"model": model, "version": "1", label: value}


async def test_a_request_that_cannot_be_computed_leaves_the_model_where_it_is(
    shared_consul: ConsulRig, demo_models: DemoModels, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache_dir = tmp_path_factory.getbasetemp() / "compiled"
    async with serving(shared_consul, demo_models, cache_dir, "smollm2") as rig:
        expected = await tokens_of(generate(rig, "The fox", 12))
        call = generate(rig, "Story")
        await first_token(call)
        rig.trouble.spares, rig.trouble.error = 1, BackendFailed("odd")
        failed = await failure(tokens_of(call))
        rig.trouble.error = None
        assert failed.code is grpc.StatusCode.INTERNAL
        assert failed.message == "odd"
        assert await tokens_of(generate(rig, "The fox", 12)) == expected
        assert await rig.state("smollm2") == ("READY", "")
        assert rig.count("ringmesh_engine_failed_runs_total", model_name="smollm2", engine="1") == 2


async def embed(rig: Rig) -> bytes:
    request = oip.ModelInferRequest(model_name="minilm")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"the sky is blue")
    answer: oip.ModelInferResponse = await rig.node.stub.ModelInfer(request)
    return answer.raw_output_contents[0]


async def test_an_encoder_is_withdrawn_and_comes_back(
    shared_consul: ConsulRig, demo_models: DemoModels, tmp_path: Path
) -> None:
    async with serving(shared_consul, demo_models, tmp_path, "minilm") as rig:
        expected = await embed(rig)
        rig.trouble.begin(BackendFailed("odd"))
        for _ in range(3):
            assert (await failure(embed(rig))).code is grpc.StatusCode.INTERNAL
        await rig.tagged()
        state, reason = await rig.state("minilm")
        assert state in {"UNAVAILABLE", "LOADING"}
        assert reason.endswith("runs in a row failed: odd")
        assert isinstance(await failure(embed(rig)), ModelNotReady)
        rig.trouble.end()
        await rig.tagged("minilm@1")
        assert await embed(rig) == expected


async def test_a_version_that_cannot_be_opened_again_is_tried_until_it_can(
    shared_consul: ConsulRig, demo_models: DemoModels, tmp_path: Path
) -> None:
    async with serving(shared_consul, demo_models, tmp_path, "minilm") as rig:
        rig.trouble.error = BackendLost("gone")
        assert (await failure(embed(rig))).code is grpc.StatusCode.INTERNAL
        await rig.tagged()
        # The new engine fails its warm-up as long as there is trouble.
        failed = version("load_failed", "change", "minilm")
        await until(lambda: rig.count("ringmesh_model_changes_total", **failed))
        rig.trouble.end()
        await rig.tagged("minilm@1")
        assert await embed(rig)
