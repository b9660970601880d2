"""Whether a child really does its work: asked over the interface that its users use.

A probe returns when the answer is yes, and asks until then; how long that may take is decided by
whoever waits.
"""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.catalog import Catalog, Instance

_INTERVAL_S = 0.05
_TIMEOUT_S = 1.0

Probe = Callable[[], Awaitable[None]]


def http_probe(url: str) -> Probe:
    """The URL answers with status 200."""

    async def probe() -> None:
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as client:
            while not await _answers(client, url):  # noqa: ASYNC110 - it cannot set our events
                await asyncio.sleep(_INTERVAL_S)

    return probe


def grpc_probe(address: str) -> Probe:
    """The gRPC server at `address` says that it serves."""

    async def probe() -> None:
        while not await serves(address):  # noqa: ASYNC110 - it cannot set our events
            await asyncio.sleep(_INTERVAL_S)

    return probe


def catalog_probe(
    catalog: Catalog, service: str, accept: Callable[[Instance], bool] = lambda _: True
) -> Probe:
    """An accepted instance of the service passes in Consul, and says itself that it serves.

    Both, because the registration of a process that was killed passes for another second.
    """

    async def probe() -> None:
        async for instances in catalog.watch_instances(service):
            for instance in filter(accept, instances):
                if await serves(f"{instance.address}:{instance.port}"):
                    return

    return probe


async def serves(address: str) -> bool:
    """Whether the server at `address` reports itself as serving."""
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
