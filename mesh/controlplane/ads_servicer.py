"""The aggregated discovery service: moves bytes between a stream's state and its Envoy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import grpc

from mesh.controlplane.cache import SnapshotCache
from mesh.controlplane.delta import DeltaStream
from mesh.controlplane.fleet import Fleet, Member
from mesh.controlplane.snapshot import Snapshot
from mesh.controlplane.subscription import Response
from mesh.controlplane.wire import METHOD, SERVICE, parse_request, read_request, write_response
from mesh.logs import get_logger
from mesh.server import ServiceBinding

_log = get_logger(__name__)


class AdsServicer:
    """Serves the cache's snapshot to each Envoy that connects."""

    def __init__(self, cache: SnapshotCache, fleet: Fleet) -> None:
        self._cache = cache
        self._fleet = fleet

    async def DeltaAggregatedResources(
        self, requests: AsyncIterator[Any], _context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        """One Envoy's stream, until it goes away."""
        stream = DeltaStream()
        with self._fleet.joined() as member, self._cache.subscribed() as wake:
            reader = asyncio.create_task(_read(requests, stream, member, wake))
            try:
                while not reader.done():
                    await wake.wait()
                    wake.clear()
                    for response, version in self._decide(stream, member):
                        yield write_response(response, version)
                await reader
            finally:
                reader.cancel()
                with suppress(asyncio.CancelledError):
                    await reader

    def _decide(self, stream: DeltaStream, member: Member) -> list[tuple[Response, str]]:
        snapshot = self._cache.snapshot
        if snapshot is None:
            return []
        responses = stream.responses(snapshot)
        _record(stream, snapshot, member)
        return [(response, snapshot.version) for response in responses]


def ads_binding(servicer: AdsServicer) -> ServiceBinding:
    """The servicer as the server takes it: there is no generated code for this service."""
    return ServiceBinding(SERVICE, _add_to_server, servicer)


async def _read(
    requests: AsyncIterator[Any], stream: DeltaStream, member: Member, wake: asyncio.Event
) -> None:
    try:
        async for message in requests:
            _take(message, stream, member)
            wake.set()
    finally:
        wake.set()


def _take(message: Any, stream: DeltaStream, member: Member) -> None:
    if not member.status.node:
        member.update(replace(member.status, node=message.node.id))
        _log.info("envoy joined", envoy=message.node.id)
    request = read_request(message)
    if request is None:
        _log.warning("unknown kind of resource asked for", type_url=message.type_url)
        return
    rejection = stream.on_request(request)
    if rejection is not None:
        member.report(rejection)


def _record(stream: DeltaStream, snapshot: Snapshot, member: Member) -> None:
    applied = snapshot.version if stream.has_applied(snapshot) else member.status.applied_version
    refusals = stream.refusals(snapshot)
    member.update(replace(member.status, applied_version=applied, refusals=refusals))


def _add_to_server(servicer: AdsServicer, server: grpc.aio.Server) -> None:
    handler: Any = grpc.stream_stream_rpc_method_handler(
        servicer.DeltaAggregatedResources, request_deserializer=parse_request
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
    )
