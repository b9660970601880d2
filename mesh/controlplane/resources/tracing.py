"""How Envoy traces: OpenTelemetry spans over OTLP, W3C context in and out.

A request that comes with a trace context keeps it and its decision to record; one that comes
without begins a trace, recorded with the given ratio.
"""

from __future__ import annotations

from typing import Any

from mesh.controlplane.resources.cluster import OTLP
from mesh.controlplane.topology import Collector
from mesh.controlplane.xds.messages import Spec, typed

SAMPLERS = "envoy.extensions.tracers.opentelemetry.samplers.v3"


def tracing(service: str, collector: Collector | None, ratio: float) -> dict[str, Any]:
    """The field of a connection manager that makes it trace; none without a collector."""
    if collector is None:
        return {}
    config = typed(
        "envoy.config.trace.v3.OpenTelemetryConfig",
        service_name=service,
        grpc_service={"envoy_grpc": {"cluster_name": OTLP}, "timeout": "1s"},
        sampler=_parent_based(ratio),
    )
    return {
        "tracing": {
            "random_sampling": {"value": 100},  # the sampler decides
            "spawn_upstream_span": True,
            "operation": "%REQ(:METHOD)% %PATH(NQ)%",
            "upstream_operation": "to %UPSTREAM_CLUSTER%",
            "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": config},
        }
    }


def request_id() -> Spec:
    """Request ids that leave the sampling decision to the trace context."""
    return {
        "typed_config": typed(
            "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
            use_request_id_for_trace_sampling=False,
            pack_trace_reason=False,
        )
    }


def _parent_based(ratio: float) -> Spec:
    millionths = {"numerator": round(ratio * 1_000_000), "denominator": "MILLION"}
    wrapped = {
        "name": "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based",
        "typed_config": typed(
            f"{SAMPLERS}.TraceIdRatioBasedSamplerConfig", sampling_percentage=millionths
        ),
    }
    return {
        "name": "envoy.tracers.opentelemetry.samplers.parent_based",
        "typed_config": typed(f"{SAMPLERS}.ParentBasedSamplerConfig", wrapped_sampler=wrapped),
    }
