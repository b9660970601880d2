"""The OTLP trace service: what arrives is written, and what is too much is dropped and counted."""

import asyncio
from typing import Any

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from mesh.local.tracesink.file_ring import FileRing
from mesh.local.tracesink.otlp_json import encode_request
from mesh.logs import get_logger

BACKLOG = 2000
"""Requests that may wait to be written; more come only while the machine is saturated."""

_log = get_logger(__name__)

Request = trace_service_pb2.ExportTraceServiceRequest
Response = trace_service_pb2.ExportTraceServiceResponse


class TraceServicer(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans without making their sender wait for the disk."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Request] = asyncio.Queue(BACKLOG)
        self._dropping = False

    async def Export(self, request: Request, _context: Any) -> Response:
        """Queues the spans."""
        try:
            self._waiting.put_nowait(request)
        except asyncio.QueueFull:
            self._note_dropping(True)
            return _rejection(sum(_count(request)))
        self._note_dropping(False)
        return Response()

    async def run_writer(self, ring: FileRing) -> None:
        """Writes what is queued, until cancelled."""
        while True:
            ring.append(encode_request(await self._waiting.get()))
            self._waiting.task_done()
            await asyncio.sleep(0)  # a backlog must not keep new calls waiting

    async def drain(self) -> None:
        """Returns when all that came is written."""
        await self._waiting.join()

    def _note_dropping(self, dropping: bool) -> None:
        if dropping != self._dropping:
            self._dropping = dropping
            _log.warning("dropping spans" if dropping else "keeping all spans again")


def _count(request: Request) -> list[int]:
    return [len(scope.spans) for group in request.resource_spans for scope in group.scope_spans]


def _rejection(spans: int) -> Response:
    partial = trace_service_pb2.ExportTracePartialSuccess(
        rejected_spans=spans, error_message="the trace sink has too much to write"
    )
    return Response(partial_success=partial)
