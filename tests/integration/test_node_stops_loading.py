"""A node that is told to stop in the middle of a load goes, however long the load would take."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from mesh.catalog import Catalog
from mesh.local.demo_models import DemoModels
from mesh.pb import node_pb2
from mesh.store import ArtefactStore
from tests.integration.consul_rig import eventually, open_consul
from tests.integration.node_rig import artefact_files, assignment_of
from tests.integration.test_node_memory import status
from tests.integration.test_node_process import MINILM, ended, gone, node, place, tagged

pytestmark = pytest.mark.model


async def test_a_node_does_not_wait_for_its_loads(
    consul_binary: Path, demo_models: DemoModels, tmp_path: Path
) -> None:
    store = ArtefactStore((tmp_path / "artefacts").as_uri())
    files = artefact_files(demo_models.minilm_folder)
    for file in files:
        await store.put(file.digest, demo_models.minilm_folder / file.path)
    minilm = assignment_of(MINILM, 1, *files)
    async with (
        asyncio.timeout(100),
        open_consul(consul_binary, tmp_path) as consul,
        Catalog.open(consul.address) as catalog,
    ):
        async with node(consul, tmp_path) as process:
            await place(catalog, minilm)
            await tagged(catalog, "minilm@1")
            process.terminate()
            assert await ended(process) == 0
        await gone(catalog)
        # Whoever compiles a graph holds its lock; this one is never to be had.
        (lock,) = (tmp_path / "cache" / "compiled").glob("*.lock")
        shutil.rmtree(lock.with_suffix(""))
        with FileLock(lock):
            async with node(consul, tmp_path) as process:
                instance = await tagged(catalog)

                async def state() -> int:
                    return (await status(instance, "minilm")).state

                await eventually(state, lambda found: found == node_pb2.MODEL_STATE_LOADING)
                process.terminate()
                assert await ended(process) == 0
