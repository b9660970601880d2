"""The control plane as a process: killed, restarted, retuned, and without Consul."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh.catalog import Instance
from mesh.deployment import PLACEMENTS_PREFIX, Placement
from mesh.live_setting import SETTINGS_PREFIX
from mesh.server import serve
from mesh.telemetry import open_telemetry
from tests.integration.controlplane_rig import (
    Caller,
    Rig,
    eventually,
    open_caller,
    open_rig,
)
from tests.unit.controlplane.documents import deployment


@pytest.fixture
async def rig(tmp_path: Path, consul_binary: Path, envoy_binary: Path) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path, consul_binary, envoy_binary) as opened:
        yield opened


@asynccontextmanager
async def traffic(rig: Rig, model: str) -> AsyncIterator[list[str]]:
    """Calls without pause; any failure fails the test."""
    served: list[str] = []
    stop = asyncio.Event()

    async def work(caller: Caller, session: str) -> None:
        while not stop.is_set():
            served.append((await caller.infer(model, 5, x_ringmesh_affinity=session)).model_name)

    async with open_caller(rig.mesh) as caller, asyncio.TaskGroup() as tasks:
        for number in range(8):
            tasks.create_task(work(caller, str(number)))
        try:
            yield served
        finally:
            stop.set()


async def more(served: list[str], count: int) -> None:
    until = len(served) + count
    while len(served) < until:
        await asyncio.sleep(0.01)


async def placed(rig: Rig) -> dict[str, list[str]]:
    entries = await rig.catalog.list_prefix(PLACEMENTS_PREFIX)
    found = [Placement.from_json(entry.value) for entry in entries.values()]
    return {
        each.node: [f"{held.model}@{held.spec.version}" for held in each.assignments]
        for each in found
    }


async def test_traffic_outlives_the_control_plane_and_consul(rig: Rig) -> None:
    await rig.deploy(deployment("echo", {1: 1}))
    rig.start_controlplane()
    rig.start_envoy()
    rig.start_node("one", "echo@1")
    await rig.wait_healthy("echo@1", 1)
    async with traffic(rig, "echo") as served:
        before = await rig.stats("update_success")
        rig.kill("controlplane")
        await more(served, 100)
        rig.start_controlplane()

        await eventually(lambda: _joined(rig), bool)
        await more(served, 100)
        assert await rig.stats("update_success") == before

        rig.start_node("two", "echo@1")
        while "two" not in served:
            await asyncio.sleep(0.01)
        rig.kill("consul")
        await more(served, 400)
        assert await rig.healthy("echo@1") == 2
    assert set(served) == {"one", "two"}


async def _joined(rig: Rig) -> bool:
    return rig.log("controlplane").count("envoy joined") == 2


async def test_settings_reach_envoy_while_it_runs(rig: Rig) -> None:
    await rig.deploy(deployment("echo", {1: 1}))
    rig.start_controlplane()
    rig.start_envoy()
    await eventually(lambda: _cluster(rig, "echo@1"), bool)
    for key, value in {
        "routing.policy": "ring_hash",
        "routing.hash_balance_factor": 150,
        "tracing.sample_ratio": "nonsense",
    }.items():
        stored = json.dumps({"value": value, "revision": 1}).encode()
        await rig.catalog.put(SETTINGS_PREFIX + key, stored)

    async def tuned() -> bool:
        found = json.dumps(await _cluster(rig, "echo@1"))
        return "ring_hash" in found and '"hash_balance_factor": 150' in found

    await eventually(tuned, bool)
    assert "tracing.sample_ratio" in rig.log("controlplane")


async def _cluster(rig: Rig, name: str) -> Any:
    dump = await rig.admin_json(f"/config_dump?resource=dynamic_active_clusters&name_regex={name}")
    return dump.get("configs")


async def test_replicas_are_placed_and_stay_through_a_short_absence(rig: Rig) -> None:
    await rig.deploy(deployment("echo", {1: 1}, replicas=1))
    stored = json.dumps({"value": 2.0, "revision": 1}).encode()
    await rig.catalog.put(f"{SETTINGS_PREFIX}placement.grace_s", stored)
    rig.start_controlplane()
    async with _nodes(rig, "one", "two", "three"):
        first = await eventually(
            lambda: placed(rig), lambda found: len(found) == 3 and any(found.values())
        )
        [holder] = [node for node, held in first.items() if held]
        await rig.stop("controlplane")  # whoever leads next finds out what was placed
    async with _nodes(rig, *first.keys() - {holder}):
        rig.start_controlplane()
        await eventually(lambda: _leads(rig, 2), bool)
        assert (await placed(rig))[holder] == ["echo@1"]
        after = await eventually(lambda: placed(rig), lambda found: holder not in found)
        assert sorted(after.values()) == [[], ["echo@1"]]


@asynccontextmanager
async def _nodes(rig: Rig, *names: str) -> AsyncIterator[None]:
    with open_telemetry("inference", "test", otlp_endpoint=None) as telemetry:
        async with (
            serve(listen="127.0.0.1:0", services=[], telemetry=telemetry) as server,
            AsyncExitStack() as registered,
        ):
            for name in names:
                meta = {"node": name}
                node = Instance(
                    f"inference-{name}", "inference", "127.0.0.1", server.port, meta=meta
                )
                await registered.enter_async_context(rig.catalog.registered(node))
            yield


async def _leads(rig: Rig, times: int) -> bool:
    return rig.log("controlplane").count('"leading"') == times


async def test_it_leaves_at_once_when_told_to(rig: Rig) -> None:
    rig.start_envoy()
    rig.start_controlplane()
    await eventually(lambda: _registered(rig), bool)
    assert await rig.stop("controlplane") == 0
    assert not await _registered(rig)


async def _registered(rig: Rig) -> bool:
    async for found in rig.catalog.watch_instances("controlplane"):
        return bool(found)
    raise AssertionError
