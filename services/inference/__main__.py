"""An inference node's process: `python -m services.inference`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial

from mesh.catalog import Catalog
from mesh.deployment import PLACEMENTS_PREFIX
from mesh.lifecycle import run, settings_or_exit
from mesh.member import joined, make_instance
from mesh.server import serve
from mesh.telemetry import open_telemetry
from services.inference.allocator import bound_arenas
from services.inference.bindings import make_bindings
from services.inference.loading_thread import leave_threads
from services.inference.models.announcement import Announcement
from services.inference.models.count_report import CountReport
from services.inference.models.loader import ModelLoader
from services.inference.models.memory import Memory
from services.inference.models.metrics import ModelCollector
from services.inference.models.placement_watch import PlacementWatch
from services.inference.models.residence import Residence
from services.inference.models.table import ModelTable
from services.inference.models.version_lifetime import VersionLifetime
from services.inference.settings import NodeSettings

NAME = "inference"


async def _serve(settings: NodeSettings, stop: asyncio.Event) -> None:
    node, owner = settings.node_id, f"{NAME}-{settings.node_id}"
    with open_telemetry(NAME, owner, otlp_endpoint=settings.otlp_endpoint) as telemetry:
        loader, residence = ModelLoader(settings, telemetry.metrics), Residence()
        async with (
            Catalog.open(settings.consul_address) as catalog,
            aclosing(ModelTable()) as table,
            serve(
                listen=settings.listen,
                services=make_bindings(node, table, residence, telemetry.tracer),
                telemetry=telemetry,
                drain_timeout_s=settings.drain_timeout_s,
                implementation=settings.grpc_server,
            ) as server,
            asyncio.TaskGroup() as tasks,
        ):
            telemetry.metrics.register(ModelCollector(table))
            memory = Memory(settings.memory_budget, table.usage)
            table.follow_idle(memory.notify)
            instance = make_instance(
                NAME,
                owner,
                settings.listen,
                server.port,
                telemetry.metrics_port,
                node=node,
                formats=",".join(sorted(loader.formats)),
                memory_bytes=str(settings.memory_budget),
            )
            async with joined(catalog, instance, settings.log_level) as registration:
                make_lifetime = partial(
                    VersionLifetime,
                    table=table,
                    open_model=loader.open,
                    improve=loader.improve,
                    give_up=loader.improve.give_up,
                    announce=Announcement(table, registration, server.health).renew,
                    loads=asyncio.Semaphore(settings.concurrent_loads),
                    unload_timeout_s=settings.unload_timeout_s,
                    memory=memory,
                    measure=CountReport(loader.measure, catalog).measure,
                )
                placement = catalog.watch_key(PLACEMENTS_PREFIX + node)
                follower = PlacementWatch(node, residence, make_lifetime)
                watch = tasks.create_task(follower.run(placement))
                await stop.wait()
                table.stop_paging()
                watch.cancel()


def main() -> None:
    """Runs until a signal."""
    bound_arenas()
    settings = settings_or_exit(NodeSettings)  # type: ignore[arg-type]  # from the environment
    run(NAME, lambda stop: _serve(settings, stop), log_level=settings.log_level)
    leave_threads()


if __name__ == "__main__":
    main()
