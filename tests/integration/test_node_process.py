"""A whole node process with a real Consul: placements in, tags out, and an orderly end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.catalog import Catalog, Instance
from mesh.deployment import PLACEMENTS_PREFIX, ArtefactFile, Assignment, Placement
from mesh.local.demo_models import DemoModels
from mesh.manifest import Manifest
from mesh.pb import inference_pb2, inference_pb2_grpc, node_pb2, node_pb2_grpc
from mesh.store import ArtefactStore, digest_of
from tests.integration.consul_rig import ConsulRig, eventually
from tests.integration.node_process import (
    ROOT,
    ended,
    gone,
    node,
    place,
    status,
    store_files,
    tagged,
)
from tests.integration.node_rig import NODE, artefact_files, assignment_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDENTITY = Manifest(name="identity", task="tensor", format="identity")
MINILM = Manifest(name="minilm", task="text-embedding", format="sentence-transformers")
SMOLLM2 = Manifest(name="smollm2", task="text-generation", format="gguf")
BROKEN = Manifest(name="broken", task="text-generation", format="gguf")


async def infer(instance: Instance, version: str = "") -> str:
    tensor = triton.InferInput("x", [1], "INT32")
    tensor.set_data_from_numpy(np.array([7], dtype=np.int32))
    async with triton.InferenceServerClient(f"{instance.address}:{instance.port}") as client:
        result = await client.infer("identity", [tensor], model_version=version)
        assert result.as_numpy("x").tolist() == [7]
        return str(result.get_response().model_version)


async def test_a_placement_is_loaded_announced_changed_and_withdrawn(
    shared_consul: ConsulRig, shared_catalog: Catalog, tmp_path: Path
) -> None:
    async with asyncio.timeout(60), node(shared_consul, tmp_path) as process:
        instance = await tagged(shared_catalog)
        assert instance.id == f"inference-{NODE}"
        assert instance.meta["node"] == NODE
        assert "identity" in instance.meta["formats"].split(",")
        await place(shared_catalog, assignment_of(IDENTITY, 1))
        assert await infer(await tagged(shared_catalog, "identity@1")) == "1"
        await place(shared_catalog, assignment_of(IDENTITY, 1), assignment_of(IDENTITY, 2))
        assert await infer(await tagged(shared_catalog, "identity@1", "identity@2")) == "2"
        async with grpc.aio.insecure_channel(f"127.0.0.1:{instance.port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service="identity@2"))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            await place(shared_catalog, assignment_of(IDENTITY, 1))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await infer(await tagged(shared_catalog, "identity@1")) == "1"
        await place(shared_catalog)
        await tagged(shared_catalog)
        process.send_signal(signal.SIGTERM)
        await gone(shared_catalog)
        assert await ended(process) == 0


async def test_a_load_that_fails_keeps_its_reason_and_is_tried_again(
    shared_consul: ConsulRig, shared_catalog: Catalog, tmp_path: Path
) -> None:
    missing = ArtefactFile(path="model.gguf", digest="0" * 64, size_bytes=1)
    async with asyncio.timeout(60), node(shared_consul, tmp_path) as process:
        await place(shared_catalog, assignment_of(BROKEN, 1, missing), assignment_of(IDENTITY, 1))
        instance = await tagged(shared_catalog, "identity@1")

        async def broken() -> node_pb2.ModelStatus:
            return await status(instance, "broken")

        failed = await eventually(
            broken, lambda found: found.state == node_pb2.MODEL_STATE_UNAVAILABLE
        )
        await eventually(broken, lambda found: "model.gguf" in found.reason)
        assert failed.version == "1"
        log = tmp_path / f"{NODE}.log"

        async def failures() -> int:
            return log.read_text().count("does not hold 'model.gguf'")

        await eventually(failures, lambda found: found >= 2)
        assert await infer(instance) == "1"
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0


async def test_a_node_without_a_name_says_what_is_missing(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("RINGMESH_")}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "services.inference"],
        env={**env, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "RINGMESH_NODE_ID" in done.stderr


async def test_a_restarted_node_takes_up_its_placement(
    shared_consul: ConsulRig, shared_catalog: Catalog, tmp_path: Path
) -> None:
    await place(shared_catalog, assignment_of(IDENTITY, 3))
    async with asyncio.timeout(60):
        async with node(shared_consul, tmp_path) as process:
            await tagged(shared_catalog, "identity@3")
            process.kill()
            await gone(shared_catalog)
        async with node(shared_consul, tmp_path):
            assert await infer(await tagged(shared_catalog, "identity@3")) == "3"


@pytest.mark.model
async def test_two_nodes_of_a_machine_load_real_models_and_stay_healthy_meanwhile(
    shared_consul: ConsulRig, shared_catalog: Catalog, tmp_path: Path, demo_models: DemoModels
) -> None:
    names = ("node-b", "node-c")
    await shared_catalog.put(
        PLACEMENTS_PREFIX + NODE, Placement(node=NODE, assignments=()).to_json()
    )
    gguf = demo_models.smollm2_gguf
    weights = ArtefactFile(path=gguf.name, digest=digest_of(gguf), size_bytes=gguf.stat().st_size)
    await ArtefactStore((tmp_path / "artefacts").as_uri()).put(weights.digest, gguf)
    minilm = await stored_minilm(tmp_path, demo_models)
    held = (minilm, assignment_of(SMOLLM2, 1, weights))
    for name in names:
        await place(shared_catalog, *held, name=name)
    lost: list[str] = []

    async def watch_health() -> None:
        seen: set[str] = set()
        async for instances in shared_catalog.watch_instances("inference"):
            passing = {instance.meta["node"] for instance in instances} & {*names}
            lost.extend(seen - passing)
            seen |= passing

    async with (
        asyncio.timeout(110),
        node(shared_consul, tmp_path, names[0]) as first,
        node(shared_consul, tmp_path, names[1]) as second,
    ):
        watching = asyncio.create_task(watch_health())
        for name in names:
            instance = await tagged(shared_catalog, "minilm@1", "smollm2@1", name=name)
            assert await embed(instance, "hello") == (1, 384)
        watching.cancel()
        compiled = [each for each in (tmp_path / "cache" / "compiled").iterdir() if each.is_dir()]
        # A graph per model and the language model's description, made once for both nodes.
        assert len(compiled) == 3
        for process in (first, second):
            process.send_signal(signal.SIGTERM)
        assert [await ended(first), await ended(second)] == [0, 0]
    assert lost == []


async def stored_minilm(folder: Path, demo_models: DemoModels) -> Assignment:
    """The encoder, its files in the artefact store of that state folder."""
    await store_files(folder, demo_models.minilm_folder)
    return assignment_of(MINILM, 1, *artefact_files(demo_models.minilm_folder))


async def embed(instance: Instance, text: str) -> tuple[int, ...]:
    tensor = triton.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
    async with triton.InferenceServerClient(f"{instance.address}:{instance.port}") as client:
        result = await client.infer("minilm", [tensor])
    shape: tuple[int, ...] = result.as_numpy("embedding").shape
    return shape


@pytest.mark.model
async def test_a_stopping_node_leaves_consul_first_and_finishes_what_is_under_way(
    shared_consul: ConsulRig, shared_catalog: Catalog, tmp_path: Path, demo_models: DemoModels
) -> None:
    await place(shared_catalog, await stored_minilm(tmp_path, demo_models))
    async with asyncio.timeout(60), node(shared_consul, tmp_path) as process:
        instance = await tagged(shared_catalog, "minilm@1")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{instance.port}") as channel:
            call = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(many_texts(60))
            # Over the same connection: what came before has arrived when this is answered.
            await node_pb2_grpc.NodeStub(channel).ListModels(node_pb2.ListModelsRequest())
            process.send_signal(signal.SIGTERM)
            await gone(shared_catalog)
            assert not call.done()
            assert list((await call).outputs[0].shape) == [60, 384]
        assert await ended(process) == 0


def many_texts(count: int) -> inference_pb2.ModelInferRequest:
    request = inference_pb2.ModelInferRequest(model_name="minilm")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[count])
    tensor.contents.bytes_contents.extend([b"a " * 300] * count)
    return request


async def test_a_node_serves_on_without_consul_and_is_back_with_it(
    shared_consul: ConsulRig, shared_catalog: Catalog, tmp_path: Path
) -> None:
    await place(shared_catalog, assignment_of(IDENTITY, 4))
    async with asyncio.timeout(90), node(shared_consul, tmp_path) as process:
        instance = await tagged(shared_catalog, "identity@4")
        shared_consul.kill()
        assert await infer(instance) == "4"
        await shared_consul.start()
        assert (await tagged(shared_catalog, "identity@4")).port == instance.port
        await place(shared_catalog, assignment_of(IDENTITY, 5))
        assert await infer(await tagged(shared_catalog, "identity@5")) == "5"
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0
