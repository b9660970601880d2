"""`grpc.health.v1`: one status for the whole server (`""`) and one per service.

grpcio ships a servicer too, but the first of two watchers of a service that leaves takes the
other's updates with it, and an open watch keeps a server from stopping; both matter where Envoy,
Consul and people watch the same processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

Status = HealthCheckResponse.ServingStatus


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Answers checks and watches; `drain` is final."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {"": HealthCheckResponse.SERVING}
        self._changed = asyncio.Condition()
        self._is_draining = False

    def __repr__(self) -> str:
        shown = {name or "all": Status.Name(value) for name, value in self._statuses.items()}
        return f"<HealthServicer {shown}>"

    async def Check(  # noqa: N802 - the name of the .proto
        self, request: HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> HealthCheckResponse:
        """The status now; NOT_FOUND for a service that is not known here."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802 - the name of the .proto
        self, request: HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[HealthCheckResponse]:
        """The status now, then each change; ends with UNAVAILABLE when the server stops."""
        last: int | None = None
        while True:
            status = await self._next_status(request.service, last)
            if status is None:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            yield HealthCheckResponse(status=status)
            last = status

    async def _next_status(self, service: str, last: int | None) -> int | None:
        """The status once it is another than `last`; None if there will be none."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_draining or self._status(service) != last)
        status = self._status(service)
        return None if status == last else status

    async def set(self, service: str, *, serving: bool) -> None:
        """Marks a service (or the server, `""`) as serving or not; watchers are told."""
        if self._is_draining:
            return
        kind = HealthCheckResponse
        self._statuses[service] = kind.SERVING if serving else kind.NOT_SERVING
        await self._announce()

    async def drain(self) -> None:
        """From now on nothing here is serving, and no watch stays open."""
        self._is_draining = True
        self._statuses = dict.fromkeys(self._statuses, HealthCheckResponse.NOT_SERVING)
        await self._announce()

    def _status(self, service: str) -> int:
        unknown: int = HealthCheckResponse.SERVICE_UNKNOWN
        return self._statuses.get(service, unknown)

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()
