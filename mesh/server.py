"""The gRPC server of a service: health, reflection, interceptors, and a drain that loses nothing.

Two implementations serve the same servicers. `pygrpc-native` does HTTP/2 in Rust, outside the GIL,
at four to five times the calls per core; grpcio does everything else. Which one runs is decided
here and nowhere else. Both bind exactly one port, never shared with another process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import grpc
from grpc_health.v1 import health_pb2_grpc

from mesh.errors import Unavailable
from mesh.health import SERVICE as HEALTH
from mesh.health import HealthServicer
from mesh.in_flight import CallsInFlight
from mesh.interceptors import ServerInterceptor
from mesh.logs import get_logger
from mesh.native_server import NativeServer
from mesh.reflection import add_reflection
from mesh.telemetry import Telemetry

MAX_MESSAGE_BYTES = 64 * 1024 * 1024

QUIET_S = 0.5
"""A handler's last words are on their way for a moment after it has ended; of bidirectional streams
nothing else is known."""
FLUSH_S = 0.1
"""What the library has sent, the system has still to send."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceBinding:
    """A servicer with the generated function that adds it, under its full name."""

    name: str
    add: Callable[[Any, grpc.aio.Server], None]
    servicer: Any


@dataclass(frozen=True, slots=True)
class GrpcServer:
    """A server that accepts calls."""

    port: int
    health: HealthServicer


@asynccontextmanager
async def serve(
    *,
    listen: str,
    services: Sequence[ServiceBinding],
    telemetry: Telemetry,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    drain_timeout_s: float = 10.0,
    implementation: Literal["native", "grpcio"] = "native",
) -> AsyncIterator[GrpcServer]:
    """Serves until the block is left; then reports NOT_SERVING and finishes what is in flight.

    Raises:
        Unavailable: the address cannot be bound.
    """
    health, in_flight = HealthServicer(), CallsInFlight()
    interceptor = ServerInterceptor(telemetry, in_flight)
    server = _make_server(implementation, interceptor, max_message_bytes)
    for service in services:
        service.add(service.servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    add_reflection(server, [service.name for service in services] + [HEALTH])
    port = _bind(server, listen)
    for service in services:
        await health.set(service.name, serving=True)
    await server.start()
    _log.info("serving", listen=listen, port=port, implementation=implementation)
    try:
        yield GrpcServer(port, health)
    finally:
        await health.drain()
        if isinstance(server, NativeServer):
            await _drain(server, in_flight, drain_timeout_s)
        await server.stop(drain_timeout_s)
        _log.info("stopped serving", port=port)


async def _drain(server: NativeServer, in_flight: CallsInFlight, timeout_s: float) -> None:
    """Lets the last answers go out: stopping closes the connections as soon as no handler runs."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await in_flight.wait_until_none(quiet_s=QUIET_S)
            await server.wait_until_taken()
    await asyncio.sleep(FLUSH_S)


def _make_server(
    implementation: Literal["native", "grpcio"],
    interceptor: ServerInterceptor,
    max_message_bytes: int,
) -> grpc.aio.Server:
    if implementation == "native":
        native: grpc.aio.Server = NativeServer([interceptor], _options(max_message_bytes))
        return native
    return grpc.aio.server(interceptors=[interceptor], options=_options(max_message_bytes))


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # Two processes must never share a port unknowingly.
        ("grpc.so_reuseport", 0),
        # Envoy pings every second to notice a hung node; by default that is "too many pings".
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _bind(server: grpc.aio.Server, listen: str) -> int:
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise Unavailable(f"cannot listen on {listen}: {error}") from error
    if port == 0:
        raise Unavailable(f"cannot listen on {listen}: the port is taken")
    return port
