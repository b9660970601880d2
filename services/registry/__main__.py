"""The registry's process: `python -m services.registry`."""

from __future__ import annotations

import asyncio
import secrets

from mesh.catalog import Catalog
from mesh.lifecycle import run, settings_or_exit
from mesh.member import joined, make_instance
from mesh.server import serve
from mesh.store import ArtefactStore
from mesh.telemetry import open_telemetry
from services.registry.publication import Publication
from services.registry.registry import Registry
from services.registry.registry_servicer import RegistryServicer, registry_binding
from services.registry.settings import RegistrySettings
from services.registry.storage.database import Database

NAME = "registry"


async def _serve(settings: RegistrySettings, stop: asyncio.Event) -> None:
    instance_id = f"{NAME}-{secrets.token_hex(4)}"
    store = ArtefactStore(settings.artefact_store_url)
    with open_telemetry(NAME, instance_id, otlp_endpoint=settings.otlp_endpoint) as telemetry:
        async with (
            Database.open(settings.database_url) as database,
            Catalog.open(settings.consul_address) as catalog,
        ):
            publication = Publication(catalog, database)
            registry = Registry(
                database, store, publication, max_blob_bytes=settings.max_blob_bytes
            )
            async with (
                publication.healing(),
                serve(
                    listen=settings.listen,
                    services=[registry_binding(RegistryServicer(registry))],
                    telemetry=telemetry,
                    drain_timeout_s=settings.drain_timeout_s,
                    implementation=settings.grpc_server,
                ) as server,
            ):
                instance = make_instance(
                    NAME, instance_id, settings.listen, server.port, telemetry.metrics_port
                )
                async with joined(catalog, instance, settings.log_level):
                    await stop.wait()


def main() -> None:
    """Runs until a signal."""
    settings = settings_or_exit(RegistrySettings)
    run(NAME, lambda stop: _serve(settings, stop), log_level=settings.log_level)


if __name__ == "__main__":
    main()
