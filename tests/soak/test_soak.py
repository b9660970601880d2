"""Many mixed requests, some cut short, while a model comes and goes: nothing is left over.

The suite runs a short form; `make soak` runs 200,000 requests.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from mesh.local.demo_models import DemoModels
from mesh.ports import free_ports
from tests.e2e.harness import Mesh, start_mesh, stop_mesh
from tests.soak.footprint import footprints, metric_sums
from tests.soak.load import Load

REQUESTS = int(os.environ.get("RINGMESH_SOAK_REQUESTS", "3000"))
AT_ONCE = 24
WARM = 0.25
"""The share of requests after which caches, pools and arenas have their size."""
GROWTH = 0.10
GROWTH_KB = 48 * 1024
"""Allocators keep some of what a burst took; 1 kB leaked by each request is 200 MB in the end."""
RELOADED = "reloaded"
RELOADS = max(3, REQUESTS // 1000)
WAITING = "vllm:num_requests_waiting"
MORE_TASKS = 16
MORE_FILES = 24
"""Connections that a pool has not closed yet."""
SETTLE_S = 30.0

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120 + REQUESTS * 0.1)]


@pytest.fixture
def own_mesh(demo_models: DemoModels, tmp_path: Path) -> Iterator[Mesh]:
    started = start_mesh(tmp_path / "state", free_ports(3))
    yield started
    assert stop_mesh(started) == 0


async def test_nothing_is_left_over(own_mesh: Mesh, demo_models: DemoModels) -> None:
    published = own_mesh.command(
        "publish", str(demo_models.minilm_folder), "--name", RELOADED, "--deploy"
    )
    assert published.returncode == 0, published.stderr
    load = Load(own_mesh.edge)
    await reload_models(own_mesh, times=2)
    await load.run(int(REQUESTS * WARM), at_once=AT_ONCE, seed=1)
    tasks = await until_idle(own_mesh)
    before = footprints(own_mesh)

    async with asyncio.TaskGroup() as group:
        group.create_task(reload_models(own_mesh, times=RELOADS))
        group.create_task(load.run(int(REQUESTS * (1 - WARM)), at_once=AT_ONCE, seed=2))

    assert await until_idle(own_mesh) <= tasks + MORE_TASKS
    after = footprints(own_mesh)
    assert after.keys() == before.keys()
    for name, held in after.items():
        had = before[name]
        assert held.files <= had.files + MORE_FILES, (name, had, held)
        assert held.memory_kb <= had.memory_kb * (1 + GROWTH) + GROWTH_KB, (name, had, held)
    assert load.outcomes.total() >= REQUESTS


async def until_idle(mesh: Mesh) -> float:
    """Waits until no slot is taken and nothing waits; the coroutines that are under way then."""
    async with asyncio.timeout(SETTLE_S):
        while True:
            nodes, gateways = metric_sums(mesh, "inference"), metric_sums(mesh, "gateway")
            if not any(nodes[name] for name in ("vllm:num_requests_running", WAITING)):
                return nodes["asyncio_tasks"] + gateways["asyncio_tasks"]
            await asyncio.sleep(0.1)


async def reload_models(mesh: Mesh, *, times: int) -> None:
    """Takes a model out of the mesh and brings it back, again and again, and asks it each time."""
    async with triton.InferenceServerClient(mesh.edge) as client:
        for _ in range(times):
            await client.unload_model(RELOADED)
            await client.load_model(RELOADED)
            tensor = triton.InferInput("text", [1], "BYTES")
            tensor.set_data_from_numpy(np.array([b"here again"], np.object_))
            assert (await client.infer(RELOADED, [tensor])).as_numpy("embedding").shape == (1, 384)
