"""What happens around every HTTP route, written once: span, body, errors, and the client leaving.

The HTTP twin of the gRPC interceptors. A handler gets an `Exchange`, raises errors of the one tree
and knows nothing of ASGI; each protocol brings its own way to show an error. A client that goes
away cancels the handler, and with it the call to the node.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, format_trace_id
from prometheus_client import Histogram
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from mesh.errors import Cancelled, Internal, RingmeshError
from mesh.logs import get_logger
from mesh.telemetry import extract_context
from services.gateway.caller import caller_from_headers
from services.gateway.http.body import read_body
from services.gateway.http.exchange import ErrorRenderer, Exchange, Handler

SERVER_FAULT = 500

TRACE_ID = "x-ringmesh-trace-id"
"""The edge says it too, and means the same; but it begins no trace where the caller's `traceparent`
is malformed, and then this process does."""

LINGER_S = 5.0
"""How long a client that was refused may go on sending before the connection is cut."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An ASGI application for one route."""

    route: str
    handler: Handler
    render_error: ErrorRenderer
    tracer: Tracer
    duration: Histogram
    max_body_bytes: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        with self._observed(scope, headers) as outcome:
            span, recorded = outcome.span, outcome.recording(send)
            try:
                body = await read_body(receive, headers, self.max_body_bytes)
            except RingmeshError as error:
                await refuse_unread(self.render_error(error), receive, recorded)
                return
            exchange = Exchange(
                url_path=scope["path"],
                path=scope.get("path_params", {}),
                headers=headers,
                body=body,
                caller=caller_from_headers(scope["headers"]),
                span=span,
            )
            if not await run_while_connected(
                self._answer(exchange, scope, receive, recorded), receive
            ):
                span.set_attribute("error.type", Cancelled.reason)

    async def _answer(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self.handler(exchange)
        except RingmeshError as error:
            response = self.render_error(error)
            exchange.span.set_attribute("error.type", error.reason)
        except Exception:  # noqa: BLE001 - the edge of the process
            _log.exception("request failed unexpectedly", route=self.route)
            response = self.render_error(Internal("internal error; the gateway's log has more"))
        await response(scope, receive, send)

    @contextmanager
    def _observed(self, scope: Scope, headers: dict[str, str]) -> Iterator[_Outcome]:
        began = time.perf_counter()
        with self.tracer.start_as_current_span(
            f"{scope['method']} {self.route}",
            context=extract_context(headers.items()),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": scope["method"],
                "http.route": self.route,
                "url.path": scope["path"],
                "url.scheme": scope["scheme"],
            },
        ) as span:
            outcome = _Outcome(span)
            try:
                yield outcome
            finally:
                took = time.perf_counter() - began
                self.duration.labels(self.route, outcome.status).observe(took)


class _Outcome:
    """What the client was told, for the span and the metrics."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.status = 0

    def recording(self, send: Send) -> Send:
        """`send`, looked at as it passes."""

        async def record(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(message["status"])
                message = {**message, "headers": [*message["headers"], *self._trace_header()]}
            await send(message)

        return record

    def _trace_header(self) -> Iterator[tuple[bytes, bytes]]:
        context = self.span.get_span_context()
        if context.is_valid:
            yield TRACE_ID.encode(), format_trace_id(context.trace_id).encode()

    def _note(self, status: int) -> None:
        self.status = status
        self.span.set_attribute("http.response.status_code", status)
        if status >= SERVER_FAULT:
            self.span.set_status(Status(StatusCode.ERROR))


async def refuse_unread(response: Response, receive: Receive, send: Send) -> None:
    """Answers a request whose body was not read to its end.

    The client may be sending still, and would never see the answer if the connection closed on what
    it sends: so the answer is complete first, then the rest is read and thrown away for a while.
    """
    response.headers["connection"] = "close"
    await send(
        {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
        }
    )
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            await _read_to_end(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _read_to_end(receive: Receive) -> None:
    message = await receive()
    while message["type"] == "http.request" and message.get("more_body"):
        message = await receive()


async def run_while_connected(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    """Carries `work` out unless the client goes away first, which cancels it; False then."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()  # an error in sending is the server's to report
            return True
        return False
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
