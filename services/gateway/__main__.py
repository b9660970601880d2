"""The gateway's process: what it opens, in order; what it closes, in the order upwards."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial

from mesh.catalog import Catalog
from mesh.channel import open_channel
from mesh.lifecycle import run, settings_or_exit
from mesh.member import joined, make_instance
from mesh.server import serve
from mesh.telemetry import open_telemetry
from services.gateway.directory_watch import watch_directory
from services.gateway.front import make_front
from services.gateway.http.server import serve_http
from services.gateway.settings import GatewaySettings

NAME = "gateway"


async def _serve(settings: GatewaySettings, stop: asyncio.Event) -> None:
    instance_id = f"{NAME}-{secrets.token_hex(4)}"
    drain_s = settings.drain_timeout_s
    with open_telemetry(NAME, instance_id, otlp_endpoint=settings.otlp_endpoint) as telemetry:
        async with (
            Catalog.open(settings.consul_address) as catalog,
            watch_directory(catalog) as watch,
            open_channel(settings.mesh_address, telemetry) as channel,
        ):
            front = make_front(watch, channel, settings, telemetry)
            async with (
                serve(
                    listen=settings.listen,
                    services=front.grpc,
                    telemetry=telemetry,
                    drain_timeout_s=drain_s,
                    implementation=settings.grpc_server,
                ) as server,
                serve_http(
                    front.http, listen=settings.http_listen, drain_timeout_s=drain_s
                ) as http_port,
            ):
                instance = make_instance(
                    NAME,
                    instance_id,
                    settings.listen,
                    server.port,
                    telemetry.metrics_port,
                    http_port=str(http_port),
                )
                async with joined(catalog, instance, settings.log_level):
                    await stop.wait()


def _read_settings() -> GatewaySettings:
    return GatewaySettings()  # type: ignore[call-arg]  # its values come from the environment


def main() -> None:
    """Runs until a signal."""
    settings = settings_or_exit(_read_settings)
    run(NAME, partial(_serve, settings), log_level=settings.log_level)


if __name__ == "__main__":
    main()
