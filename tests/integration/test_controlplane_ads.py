"""The discovery service against a real Envoy: what it confirms, refuses and keeps."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from mesh.catalog import Instance
from mesh.controlplane.ads_servicer import AdsServicer, ads_binding
from mesh.controlplane.bootstrap import build_bootstrap
from mesh.controlplane.build import World, build
from mesh.controlplane.cache import SnapshotCache
from mesh.controlplane.fleet import Fleet
from mesh.controlplane.metrics import ControlplaneMetrics
from mesh.controlplane.snapshot import ResourceType, Snapshot, make_resource
from mesh.controlplane.topology import Endpoint, Topology
from mesh.controlplane.tuning import Tuning
from mesh.ports import free_ports
from mesh.server import serve
from mesh.telemetry import Telemetry, open_telemetry
from tests.integration.controlplane_rig import eventually
from tests.unit.controlplane.documents import deployment


@dataclass
class Plane:
    """A control plane in this process, and an Envoy in its own."""

    topology: Topology
    listen: str
    admin: str
    telemetry: Telemetry
    cache: SnapshotCache
    fleet: Fleet

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with serve(
            listen=self.listen,
            services=[ads_binding(AdsServicer(self.cache, self.fleet))],
            telemetry=self.telemetry,
            drain_timeout_s=0.1,
            implementation="grpcio",
        ):
            yield

    async def apply(self, snapshot: Snapshot, within_s: float = 10) -> None:
        self.cache.publish(snapshot)
        await eventually(self._connected, bool)
        async with asyncio.timeout(within_s):
            await self.fleet.wait_applied(snapshot.version)

    async def _connected(self) -> bool:
        return any(each.node for each in self.fleet.envoys)

    async def stats(self, pattern: str) -> Mapping[str, int]:
        async with httpx.AsyncClient() as client:
            found = await client.get(f"http://{self.admin}/stats?format=json&filter={pattern}")
        return {each["name"]: each["value"] for each in found.json()["stats"] if "value" in each}


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    edge, mesh, listen, admin = free_ports(4)
    host = "127.0.0.1"
    with open_telemetry("controlplane", "test", otlp_endpoint=None) as telemetry:
        yield Plane(
            Topology(Endpoint(host, edge), Endpoint(host, mesh), None),
            f"{host}:{listen}",
            f"{host}:{admin}",
            telemetry,
            SnapshotCache(),
            Fleet(ControlplaneMetrics(telemetry.metrics)),
        )


@pytest.fixture
def envoy(plane: Plane, tmp_path: Path, envoy_binary: Path) -> Iterator[None]:
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(build_bootstrap("test", plane.admin, plane.listen)))
    with (tmp_path / "envoy.log").open("wb") as log:
        process = subprocess.Popen(
            [envoy_binary, "--disable-hot-restart", "--concurrency", "1", "--config-path", config],
            stdout=log,
            stderr=log,
        )
    yield
    process.kill()
    process.wait()


WORLD = World(
    instances={"inference": (Instance("n1", "inference", "127.0.0.1", 9, frozenset({"m@1"})),)},
    deployments={"m": deployment("m", {1: 1})},
)


def damaged(snapshot: Snapshot, kind: ResourceType, name: str, **fields: Any) -> Snapshot:
    """The snapshot with a resource that Envoy's API can express and Envoy refuses."""
    broken = make_resource(kind, {**snapshot.of(kind)[name].spec, **fields})
    changed = {**snapshot.of(kind), name: broken}
    return Snapshot({**snapshot.resources, kind: changed})


async def test_changes_are_confirmed_at_once(plane: Plane, envoy: None) -> None:
    async with plane.serving():
        await plane.apply(build(WORLD, plane.topology))
        # A changed cluster waits for its endpoints: without them being sent again, for 5 s.
        tuned = replace(WORLD, tuning=Tuning(hash_balance_factor=150))
        await plane.apply(build(tuned, plane.topology), within_s=2)
        await plane.apply(build(replace(tuned, deployments={}), plane.topology), within_s=2)
        await plane.apply(build(tuned, plane.topology), within_s=2)
        assert not any(each.refusals for each in plane.fleet.envoys)


async def test_a_refusal_is_visible_and_harms_nothing_else(plane: Plane, envoy: None) -> None:
    async with plane.serving():
        good = build(WORLD, plane.topology)
        await plane.apply(good)
        bad = damaged(good, ResourceType.CLUSTER, "m@1", lb_subset_config={}, lb_policy=6)
        [member] = plane.fleet.envoys
        plane.cache.publish(bad)

        async def refusals() -> tuple[str, ...]:
            return plane.fleet.envoys[0].refusals

        assert await eventually(refusals, bool) == ("cluster m@1",)
        assert not plane.fleet.has_applied(bad.version)
        labels = {"envoy": "test", "kind": "cluster"}
        count = plane.telemetry.metrics.get_sample_value("ringmesh_xds_rejections_total", labels)
        assert count == 1
        await plane.apply(good)
        assert member.node == "test"


async def test_a_control_plane_that_restarts_sends_nothing_again(plane: Plane, envoy: None) -> None:
    async with plane.serving():
        await plane.apply(build(WORLD, plane.topology))
    pattern = "(update_success|version_text|lds.*update|warming)"
    before = await plane.stats(pattern)
    plane.cache = SnapshotCache()
    async with plane.serving():
        await plane.apply(build(WORLD, plane.topology))
        assert await plane.stats(pattern) == before
