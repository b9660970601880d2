"""The HTTP listener: uvicorn inside this process's own loop, without its signal handlers.

Bound before it serves, so that the port is known and a taken one is a clear error; on exit it stops
accepting, lets what is in flight finish within the drain timeout, and closes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

from mesh.errors import Unavailable
from mesh.logs import get_logger

KEEP_ALIVE_S = 7200
"""Longer than Envoy's hour: the side that sends requests is the one to close an idle connection."""

_log = get_logger(__name__)


class _EmbeddedServer(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process's lifecycle."""
        yield


@asynccontextmanager
async def serve_http(app: ASGIApp, *, listen: str, drain_timeout_s: float) -> AsyncIterator[int]:
    """Serves `app` until the block is left; yields the port.

    Raises:
        Unavailable: the address cannot be bound.
    """
    with _bound(listen) as listener:
        port: int = listener.getsockname()[1]
        server = _EmbeddedServer(_config(app, drain_timeout_s))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        _log.info("serving HTTP", listen=listen, port=port)
        try:
            yield port
        finally:
            server.should_exit = True
            await serving
            _log.info("stopped serving HTTP", port=port)


def _config(app: ASGIApp, drain_timeout_s: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(drain_timeout_s)),
    )


@contextmanager
def _bound(listen: str) -> Iterator[socket.socket]:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol by name: asyncio turns Nagle's algorithm off only where it reads TCP, and every
    # answer of two writes would wait 40 ms for the client's delayed ACK.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, int(port)))
        except OSError as error:
            raise Unavailable(f"cannot listen on {listen}: {error}") from error
        listener.listen(1024)
        yield listener
