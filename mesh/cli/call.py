"""Calls to the mesh's own services, through the one public port."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from mesh.errors import RemoteError, RingmeshError, error_from_rpc
from mesh.local.problem import LocalProblem

TIMEOUT_S = 30.0

T = TypeVar("T")


class CallFailed(LocalProblem):
    """A service of the mesh refused, or did not answer."""


def call(edge: str, ask: Callable[[grpc.aio.Channel], Awaitable[T]]) -> T:
    """The answer to `ask`, which gets a channel to the edge.

    Raises:
        CallFailed: there is none; the message is the service's own.
    """

    async def run() -> T:
        async with grpc.aio.insecure_channel(edge) as channel:
            return await ask(channel)

    try:
        return asyncio.run(run())
    except RingmeshError as error:
        raise _explain(edge, error) from error
    except grpc.aio.AioRpcError as error:
        raise _explain(edge, error_from_rpc(error)) from error


def _explain(edge: str, error: RingmeshError) -> CallFailed:
    # A service that says why it cannot answer has answered; anything else is about the connection.
    if error.code == grpc.StatusCode.UNAVAILABLE and isinstance(error, RemoteError):
        return CallFailed(
            f"The mesh at {edge} does not answer ({error.message}): is it up? `ringmesh status` "
            f"shows this machine's; --edge or RINGMESH_EDGE names another."
        )
    return CallFailed(f"{error.message} ({error.reason})")
