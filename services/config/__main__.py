"""The config service's process: `python -m services.config`."""

from __future__ import annotations

import asyncio
from secrets import token_hex

from mesh.catalog import Catalog
from mesh.lifecycle import run, settings_or_exit
from mesh.member import joined, make_instance
from mesh.server import serve
from mesh.telemetry import open_telemetry
from services.config.board import Board
from services.config.config_servicer import ConfigServicer, config_binding
from services.config.definition import make_definitions
from services.config.journal import Journal
from services.config.settings import ConfigSettings

NAME = "config"


async def _serve(settings: ConfigSettings, stop: asyncio.Event) -> None:
    instance_id = f"{NAME}-{token_hex(4)}"
    with open_telemetry(NAME, instance_id, otlp_endpoint=settings.otlp_endpoint) as telemetry:
        async with Catalog.open(settings.consul_address) as catalog:
            definitions = make_definitions()
            board = Board(catalog, definitions)
            servicer = ConfigServicer(Journal(catalog, definitions), board)
            async with (
                serve(
                    listen=settings.listen,
                    services=[config_binding(servicer)],
                    telemetry=telemetry,
                    drain_timeout_s=settings.drain_timeout_s,
                    implementation=settings.grpc_server,
                ) as server,
                board.open(),
            ):
                instance = make_instance(
                    NAME, instance_id, settings.listen, server.port, telemetry.metrics_port
                )
                async with joined(catalog, instance, settings.log_level):
                    await stop.wait()


def main() -> None:
    """Runs until a signal."""
    settings = settings_or_exit(ConfigSettings)
    run(NAME, lambda stop: _serve(settings, stop), log_level=settings.log_level)


if __name__ == "__main__":
    main()
