"""Clusters: who answers, how they are balanced, and when one of them is left out.

Three lines of defence, from fast to slow: outlier detection takes a failing node out within
milliseconds, retries (see `route`) rescue what was in flight, health checks and Consul decide about
coming back. The figures are measured ones; changing one means measuring again.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from mesh.controlplane.topology import Collector, Endpoint
from mesh.controlplane.tuning import Tuning
from mesh.controlplane.xds.messages import Spec, typed

GATEWAY_GRPC = "gateway-grpc"
GATEWAY_HTTP = "gateway-http"
REGISTRY = "registry"
CONFIG = "config"
OTLP = "otlp"

ADS: Spec = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "5s"}
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

CONNECTION_BUFFER_BYTES = 8 * 1024 * 1024
"""Messages reach 64 MB; they stream through, so this bounds memory and not the message."""
STREAM_WINDOW_BYTES = 4 * 1024 * 1024
CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
HTTP1_IDLE = "3s"
"""Below the 5 s after which uvicorn closes: a request must never meet a closing connection."""


def model_cluster(name: str, tuning: Tuning) -> Spec:
    """The nodes that have one model version ready, found by consistent hash of the affinity."""
    return {**_service_cluster(name), "load_balancing_policy": _hashing(tuning)}


def grpc_cluster(name: str) -> Spec:
    """The instances of a service that speaks gRPC; the one with least to do answers."""
    return {**_service_cluster(name), "load_balancing_policy": _least_request()}


def http_cluster(name: str) -> Spec:
    """The instances of a service that speaks HTTP/1.1."""
    return {
        **_service_cluster(name),
        "load_balancing_policy": _least_request(),
        "typed_extension_protocol_options": http_options(
            common_http_protocol_options={"idle_timeout": HTTP1_IDLE},
            explicit_http_config={"http_protocol_options": {}},
        ),
        # Its gRPC port answers gRPC health checks (Consul asks); here it is enough that it accepts.
        "health_checks": [_health_check(tcp_health_check={})],
    }


def collector_cluster(collector: Collector) -> Spec:
    """Where Envoy's spans go."""
    cluster = fixed_cluster(OTLP, collector.endpoint)
    if not collector.tls:
        return cluster
    context = typed(
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        sni=collector.endpoint.host,
        common_tls_context={
            "alpn_protocols": ["h2"],
            "validation_context": {"trusted_ca": {"filename": CA_BUNDLE}},
        },
    )
    socket = {"name": "envoy.transport_sockets.tls", "typed_config": context}
    return {**cluster, "transport_socket": socket}


def fixed_cluster(name: str, endpoint: Endpoint) -> dict[str, Any]:
    """One gRPC server at an address that does not change."""
    return {
        "name": name,
        "type": "STATIC" if is_ip(endpoint.host) else "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": http2_options(keepalive_interval_s=10),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(endpoint)}}]}],
        },
    }


def socket_address(endpoint: Endpoint) -> Spec:
    """The address in Envoy's words."""
    return {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}


def http_options(**fields: Any) -> Spec:
    """How a cluster speaks HTTP."""
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {name: typed(name, **fields)}


def http2_options(*, keepalive_interval_s: int) -> Spec:
    """HTTP/2 with pings, which find a hung peer under open streams."""
    keepalive = {"interval": f"{keepalive_interval_s}s", "timeout": "3s"}
    http2 = {
        "connection_keepalive": keepalive,
        "initial_stream_window_size": STREAM_WINDOW_BYTES,
        "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
    }
    return http_options(explicit_http_config={"http2_protocol_options": http2})


def _service_cluster(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": ADS},
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": CONNECTION_BUFFER_BYTES,
        "typed_extension_protocol_options": http2_options(keepalive_interval_s=1),
        "health_checks": [_health_check(grpc_health_check={})],
        "outlier_detection": _outlier_detection(),
        "circuit_breakers": _circuit_breakers(),
        "common_lb_config": {
            # By default Envoy goes on sending to dead nodes once half are unhealthy. With nobody
            # healthy it still may: a machine too busy for its health checks can yet answer.
            "healthy_panic_threshold": {"value": 1},
            # By default a change of health may wait a second for company before it counts.
            "update_merge_window": "0s",
        },
        # Else a node that has left Consul and still answers stays in.
        "ignore_health_on_host_removal": True,
    }


def _health_check(**kind: Spec) -> Spec:
    return {
        "timeout": "1s",
        "interval": "1s",
        "interval_jitter": "0.1s",
        "no_traffic_interval": "1s",
        "unhealthy_threshold": 3,
        "healthy_threshold": 1,
        **kind,
    }


def _outlier_detection() -> Spec:
    """Ejects on what happens to the connection, not on what the node answers.

    A node that dies resets its calls and refuses the next ones. A status is about the call: with
    gRPC a missed deadline counts as 504, so a few callers in a hurry would eject healthy nodes.
    """
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 2,
        "interval": "1s",
        "base_ejection_time": "2s",
        "max_ejection_percent": 80,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
    }


def _circuit_breakers() -> Spec:
    # The budget must exceed what one node has in flight, or its death loses requests.
    budget = {"budget_percent": {"value": 50}, "min_retry_concurrency": 100}
    limits = {
        "max_connections": 1024,
        "max_pending_requests": 1024,
        "max_requests": 4096,
        "track_remaining": True,
        "retry_budget": budget,
    }
    return {"thresholds": [limits]}


def _hashing(tuning: Tuning) -> Spec:
    hashing = {"hash_balance_factor": tuning.hash_balance_factor}
    if tuning.policy == "maglev":
        return _lb_policy("maglev", "maglev.v3.Maglev", consistent_hashing_lb_config=hashing)
    return _lb_policy(
        "ring_hash",
        "ring_hash.v3.RingHash",
        minimum_ring_size=1024,
        consistent_hashing_lb_config=hashing,
    )


def _least_request() -> Spec:
    return _lb_policy("least_request", "least_request.v3.LeastRequest")


def _lb_policy(name: str, message: str, **fields: Any) -> Spec:
    config = typed(f"envoy.extensions.load_balancing_policies.{message}", **fields)
    extension = {"name": f"envoy.load_balancing_policies.{name}", "typed_config": config}
    return {"policies": [{"typed_extension_config": extension}]}


def is_ip(host: str) -> bool:
    """Whether this is an address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
