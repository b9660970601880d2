"""A node that is told to stop in the middle of a load goes, however long the load would take."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from mesh.catalog import Catalog
from mesh.local.demo_models import DemoModels
from mesh.manifest import Manifest
from mesh.pb import node_pb2
from tests.integration.consul_rig import ConsulRig, eventually
from tests.integration.node_process import ended, gone, node, place, status, store_files, tagged
from tests.integration.node_rig import artefact_files, assignment_of

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]

MINILM = Manifest(name="minilm", task="text-embedding", format="sentence-transformers")


async def test_a_node_does_not_wait_for_its_loads(
    shared_consul: ConsulRig, shared_catalog: Catalog, demo_models: DemoModels, tmp_path: Path
) -> None:
    folder = demo_models.minilm_folder
    await store_files(tmp_path, folder)
    minilm = assignment_of(MINILM, 1, *artefact_files(folder))
    async with asyncio.timeout(100):
        async with node(shared_consul, tmp_path) as process:
            await place(shared_catalog, minilm)
            await tagged(shared_catalog, "minilm@1")
            process.terminate()
            assert await ended(process) == 0
        await gone(shared_catalog)
        # Whoever compiles a graph holds its lock; this one is never to be had.
        (lock,) = (tmp_path / "cache" / "compiled").glob("*.lock")
        shutil.rmtree(lock.with_suffix(""))
        with FileLock(lock):
            async with node(shared_consul, tmp_path) as process:
                instance = await tagged(shared_catalog)

                async def state() -> int:
                    return (await status(instance, "minilm")).state

                await eventually(state, lambda found: found == node_pb2.MODEL_STATE_LOADING)
                process.terminate()
                assert await ended(process) == 0
