"""Who is connected, what each has confirmed, and waiting for all of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from mesh.controlplane.cache import SnapshotCache
from mesh.controlplane.fleet import EnvoyStatus, Fleet
from mesh.controlplane.metrics import ControlplaneMetrics
from mesh.controlplane.publish import Publisher
from mesh.controlplane.snapshot import ResourceType, Snapshot, make_snapshot
from tests.unit.controlplane.documents import TOPOLOGY, world


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> ControlplaneMetrics:
    return ControlplaneMetrics(registry)


async def test_a_rollout_waits_for_every_envoy(metrics: ControlplaneMetrics) -> None:
    fleet = Fleet(metrics)
    with fleet.joined() as one, fleet.joined() as two:
        waiting = asyncio.create_task(fleet.wait_applied("v2"))
        one.update(EnvoyStatus("one", "v2"))
        two.update(EnvoyStatus("two", "v1"))
        await asyncio.sleep(0)
        assert not waiting.done()
        two.update(EnvoyStatus("two", "v2"))
        await waiting
        assert fleet.has_applied("v2")


async def test_an_envoy_that_leaves_is_not_waited_for(metrics: ControlplaneMetrics) -> None:
    fleet = Fleet(metrics)
    with fleet.joined():
        waiting = asyncio.create_task(fleet.wait_applied("v1"))
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


def test_metrics_name_what_each_envoy_has(
    metrics: ControlplaneMetrics, registry: CollectorRegistry
) -> None:
    fleet = Fleet(metrics)
    with fleet.joined() as one:
        one.update(EnvoyStatus("one", "v1"))
        one.update(EnvoyStatus("one", "v2"))
        assert registry.get_sample_value("ringmesh_envoys") == 1
        applied = "ringmesh_envoy_applied_info"
        assert registry.get_sample_value(applied, {"envoy": "one", "version": "v2"}) == 1
        assert registry.get_sample_value(applied, {"envoy": "one", "version": "v1"}) is None
    assert registry.get_sample_value("ringmesh_envoys") == 0


def test_a_stream_is_woken_at_once_and_by_changes_only() -> None:
    cache = SnapshotCache()
    first = make_snapshot({ResourceType.CLUSTER: [{"name": "a"}]})
    assert cache.publish(first)
    with cache.subscribed() as wake:
        assert wake.is_set()
        wake.clear()
        assert not cache.publish(Snapshot(first.resources))
        assert not wake.is_set()
        assert cache.publish(Snapshot({}))
        assert wake.is_set()


def test_what_is_not_consistent_is_withheld_and_the_last_snapshot_stays(
    metrics: ControlplaneMetrics, registry: CollectorRegistry
) -> None:
    cache = SnapshotCache()
    Publisher(cache, TOPOLOGY, metrics).publish(world())
    served = cache.snapshot
    assert served is not None
    both_on_one_port = replace(TOPOLOGY, mesh=TOPOLOGY.edge)
    Publisher(cache, both_on_one_port, metrics).publish(world(deployments={}))
    assert cache.snapshot is served
    assert registry.get_sample_value("ringmesh_snapshots_withheld_total") == 1
