"""The control plane's process: `python -m mesh.controlplane`."""

from __future__ import annotations

import asyncio

from mesh.catalog import Catalog
from mesh.controlplane.ads_servicer import AdsServicer, ads_binding
from mesh.controlplane.build import World
from mesh.controlplane.cache import SnapshotCache
from mesh.controlplane.fleet import Fleet
from mesh.controlplane.leader import Leader
from mesh.controlplane.metrics import ControlplaneMetrics
from mesh.controlplane.observe import run_observation
from mesh.controlplane.publish import Publisher
from mesh.controlplane.topology import ControlplaneSettings
from mesh.lifecycle import run, settings_or_exit
from mesh.member import joined, make_instance
from mesh.server import serve
from mesh.telemetry import open_telemetry

NAME = "controlplane"
STREAM_DRAIN_S = 0.2
"""Envoy's streams never end by themselves; they are cut, and Envoy keeps what it has."""


async def _serve(settings: ControlplaneSettings, stop: asyncio.Event) -> None:
    owner = f"{NAME}-{settings.controlplane_id}"
    with open_telemetry(NAME, owner, otlp_endpoint=settings.otlp_endpoint) as telemetry:
        metrics = ControlplaneMetrics(telemetry.metrics)
        cache, fleet = SnapshotCache(), Fleet(metrics)
        publisher = Publisher(cache, settings.topology(), metrics)
        async with (
            Catalog.open(settings.consul_address) as catalog,
            serve(
                listen=settings.controlplane_listen,
                services=[ads_binding(AdsServicer(cache, fleet))],
                telemetry=telemetry,
                drain_timeout_s=STREAM_DRAIN_S,
                implementation="grpcio",  # one long bidirectional stream per Envoy
            ) as server,
            asyncio.TaskGroup() as tasks,
        ):
            leader = Leader(catalog, owner, metrics)

            def on_world(world: World) -> None:
                publisher.publish(world)
                leader.take(world)

            work = [
                tasks.create_task(run_observation(catalog, on_world)),
                tasks.create_task(leader.run()),
            ]
            listen, metrics_port = settings.controlplane_listen, telemetry.metrics_port
            instance = make_instance(NAME, owner, listen, server.port, metrics_port)
            async with joined(catalog, instance, settings.log_level):
                await stop.wait()
            for task in work:
                task.cancel()


def main() -> None:
    """Runs until a signal."""
    settings = settings_or_exit(ControlplaneSettings)
    run(NAME, lambda stop: _serve(settings, stop), log_level=settings.log_level)


if __name__ == "__main__":
    main()
