"""The config service as a process: found in Consul, told what it was told before, gone in order."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc

from mesh.catalog import Catalog
from mesh.pb import config_pb2 as pb
from mesh.pb import config_pb2_grpc
from tests.integration.config_rig import FACTOR, ConfigRig
from tests.integration.consul_rig import ConsulRig
from tests.integration.service_process import ServiceProcess, start_service


def rig(service: ServiceProcess, channel: grpc.aio.Channel) -> ConfigRig:
    return ConfigRig(config_pb2_grpc.ConfigStub(channel), service.instance.port)


async def test_a_kill_loses_nothing(consul: ConsulRig, tmp_path: Path) -> None:
    async with (
        start_service("config", consul.address, tmp_path) as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        changed = await rig(service, channel).set(300, reason="busy")
    async with (
        start_service("config", consul.address, tmp_path) as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        assert await rig(service, channel).get() == changed
        assert await rig(service, channel).history() == [(1, 300, "ada", "busy")]
        assert (await anext(rig(service, channel).watch()))[FACTOR] == 300


async def test_it_stops_in_order_though_somebody_watches(consul: ConsulRig, tmp_path: Path) -> None:
    async with (
        asyncio.timeout(60),
        Catalog.open(consul.address) as catalog,
        start_service("config", consul.address, tmp_path) as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        assert int(service.instance.meta["metrics_port"]) > 0
        watch = config_pb2_grpc.ConfigStub(channel).WatchSettings(pb.WatchSettingsRequest())
        await watch.read()
        instances = catalog.watch_instances("config")
        assert len(await anext(instances)) == 1
        started = asyncio.get_running_loop().time()
        assert await service.stop() == 0
        assert asyncio.get_running_loop().time() - started < 5  # not the whole drain timeout
        assert await anext(instances) == ()
        events = [json.loads(line) for line in service.log.read_text().splitlines()]
        assert not [event for event in events if event["level"] in ("error", "critical")]
