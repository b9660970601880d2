"""Traces and metrics of one process.

Spans go over OTLP gRPC to the endpoint that the settings name; with none, no span is recorded. The
W3C trace context travels in gRPC metadata and HTTP headers. Metrics are Prometheus text on a
loopback port of their own, which the process announces in Consul.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NoOpTracerProvider, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)

EXPORT_DELAY_MS = 500
"""A trace can be looked at about this long after its request ended."""

EXPORT_TIMEOUT_S = 2
"""A collector that is gone must not keep a process from stopping."""

_propagator = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a process records with: a tracer, and metrics beside those that every server has."""

    tracer: Tracer
    metrics: CollectorRegistry
    served_calls: Histogram
    metrics_port: int


@contextmanager
def open_telemetry(
    service_name: str, instance_id: str, *, otlp_endpoint: str | None
) -> Iterator[Telemetry]:
    """Opens the process's telemetry, on its event loop; on exit the spans still held are sent."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    _count_tasks(registry)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    provider = _make_provider(service_name, instance_id, otlp_endpoint)
    try:
        yield Telemetry(
            provider.get_tracer("ringmesh"), registry, _served_calls(registry), server.server_port
        )
    finally:
        if isinstance(provider, TracerProvider):
            provider.shutdown()
        server.shutdown()
        server.server_close()
        thread.join()


def extract_context(headers: Iterable[tuple[str, str | bytes]]) -> Context:
    """The trace context that a caller sent in metadata or HTTP headers."""
    carrier = {
        key: value
        for key, value in headers
        if key in ("traceparent", "tracestate") and isinstance(value, str)
    }
    return _propagator.extract(carrier, context=Context())


def trace_headers(context: Context | None = None) -> Mapping[str, str]:
    """The headers that carry the current (or the given) trace context to the next hop."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, context=context)
    return carrier


def _served_calls(registry: CollectorRegistry) -> Histogram:
    return Histogram(
        "rpc_server_call_duration_seconds",
        "Duration of served calls.",
        ["method", "status"],
        registry=registry,
    )


def _count_tasks(registry: CollectorRegistry) -> None:
    loop = asyncio.get_running_loop()
    gauge = Gauge("asyncio_tasks", "Coroutines under way.", registry=registry)
    gauge.set_function(lambda: len(asyncio.all_tasks(loop)))


def _make_provider(
    service_name: str, instance_id: str, otlp_endpoint: str | None
) -> TracerProvider | NoOpTracerProvider:
    if otlp_endpoint is None:
        return NoOpTracerProvider()
    resource = Resource.create({"service.name": service_name, "service.instance.id": instance_id})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(
        endpoint=otlp_endpoint,
        insecure=otlp_endpoint.startswith("http:"),
        timeout=EXPORT_TIMEOUT_S,
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_DELAY_MS))
    return provider
