"""What happens around every call, written once: span, status, metrics, log.

A servicer raises a `RingmeshError` and knows nothing of gRPC statuses; whatever else escapes it is
our fault, goes to the log with its traceback, and reaches the caller as INTERNAL without it.
Health checks and reflection leave no trace: they come every second and say nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)

from mesh.decoding import decoded, each_decoded, forgiving
from mesh.errors import DETAILS_KEY, Internal, RingmeshError, error_to_status
from mesh.in_flight import CallsInFlight
from mesh.logs import get_logger
from mesh.telemetry import Telemetry, extract_context, trace_headers

QUIET_PREFIXES = ("/grpc.health.", "/grpc.reflection.")
UNTOUCHED_PREFIX = "/envoy.service."
"""Envoy's own streams, which last as long as Envoy does."""

_SERVER_FAULTS = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
"""The codes that mark a server span as failed (OpenTelemetry, RPC semantic conventions)."""

_log = get_logger(__name__)

Behavior = Callable[[Any, grpc.aio.ServicerContext], Any]
Scope = Callable[[str, grpc.aio.ServicerContext], Any]


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Puts every served method inside `_Scope`, and counts it, unless it asks about the health."""

    def __init__(self, telemetry: Telemetry, in_flight: CallsInFlight) -> None:
        self._in_flight = in_flight
        self._scope = self._counted(_Scope(telemetry))

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the method's handler, whatever its arity."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(UNTOUCHED_PREFIX):
            return handler
        is_quiet = method.startswith(QUIET_PREFIXES)
        return _wrap(handler, method, _quietly if is_quiet else self._scope)

    def _counted(self, scope: Scope) -> Scope:
        @asynccontextmanager
        async def counted(method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
            with self._in_flight.one():
                async with scope(method, context):
                    yield

        return counted


class _Scope:
    def __init__(self, telemetry: Telemetry) -> None:
        self._tracer = telemetry.tracer
        self._duration = telemetry.served_calls

    @asynccontextmanager
    async def __call__(self, method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
        started = time.perf_counter()
        code = grpc.StatusCode.OK
        with self._tracer.start_as_current_span(
            method.rpartition("/")[2],
            context=extract_context(context.invocation_metadata() or ()),
            kind=SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": method.lstrip("/")},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
                code = context.code() or code
            except RingmeshError as error:
                code = error.code
                await _abort(context, error)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:
                code = context.code() or grpc.StatusCode.UNKNOWN
                raise
            except Exception:  # noqa: BLE001 - the edge of the process
                code = grpc.StatusCode.INTERNAL
                _log.exception("call failed unexpectedly", method=method)
                await _abort(context, Internal("internal error; the node's log has the details"))
            finally:
                _finish_span(span, code, _SERVER_FAULTS)
                self._duration.labels(method, code.name).observe(time.perf_counter() - started)


@asynccontextmanager
async def _quietly(_method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    try:
        yield
    except RingmeshError as error:
        await _abort(context, error)


async def _abort(context: grpc.aio.ServicerContext, error: RingmeshError) -> NoReturn:
    status = error_to_status(error)
    # What the handler already put into the trailer stays there.
    kept = tuple(context.trailing_metadata() or ())
    details = status.SerializeToString()
    await context.abort(error.code, status.message, (*kept, (DETAILS_KEY, details)))
    raise AssertionError("abort returned")


def _finish_span(
    span: Span, code: grpc.StatusCode, faults: set[grpc.StatusCode] | None = None
) -> None:
    span.set_attribute("rpc.response.status_code", code.name)
    failed = code in faults if faults is not None else code is not grpc.StatusCode.OK
    if failed:
        span.set_attribute("error.type", code.name)
        span.set_status(Status(StatusCode.ERROR))


def _wrap(handler: Any, method: str, scope: Scope) -> Any:
    inner: Behavior = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    read = each_decoded if handler.request_streaming else decoded

    async def unary(request: Any, context: grpc.aio.ServicerContext) -> Any:
        async with scope(method, context):
            return await inner(read(request), context)

    async def stream(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async with scope(method, context):
            async for response in inner(read(request), context):
                yield response

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    behavior: Behavior = stream if handler.response_streaming else unary
    return make(
        behavior,
        request_deserializer=forgiving(handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )


def client_interceptors(tracer: Tracer) -> Sequence[grpc.aio.ClientInterceptor]:
    """Interceptors that give every outgoing call a span and send the trace context with it."""
    return (_UnaryClient(tracer), _StreamClient(tracer))


class _Client:
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._ending: set[asyncio.Task[None]] = set()

    async def _call(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        method = _method_name(details.method)
        span = self._tracer.start_span(
            method.rpartition("/")[2],
            kind=SpanKind.CLIENT,
            attributes={"rpc.system.name": "grpc", "rpc.method": method.lstrip("/")},
        )
        call = await continuation(_with_trace(details, span), request)
        call.add_done_callback(lambda done: self._end(span, done))
        return call

    def _end(self, span: Span, call: grpc.aio.Call) -> None:
        # The status is known by now, but only a coroutine tells it.
        task = asyncio.get_running_loop().create_task(_end_span(span, call, time.time_ns()))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


class _UnaryClient(_Client, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await self._call(continuation, client_call_details, request)


class _StreamClient(_Client, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await self._call(continuation, client_call_details, request)


def _method_name(method: str | bytes) -> str:
    return method.decode() if isinstance(method, bytes) else method


def _with_trace(details: Any, span: Span) -> Any:  # a named tuple, whatever its stub says
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    for key, value in trace_headers(set_span_in_context(span)).items():
        metadata.add(key, value)
    return details._replace(metadata=metadata)


async def _end_span(span: Span, call: grpc.aio.Call, ended_ns: int) -> None:
    _finish_span(span, await call.code())
    span.end(ended_ns)
