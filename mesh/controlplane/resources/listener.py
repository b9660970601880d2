"""The two listeners of an Envoy: the edge, where the world enters, and the mesh behind the gateway.

Both trace every request; the edge also logs it and says its trace id in each answer, Envoy's own
answers included, which speak the shape of the protocol that asked.
"""

from __future__ import annotations

from typing import Any

from mesh.controlplane.resources.cluster import (
    ADS,
    CONNECTION_BUFFER_BYTES,
    CONNECTION_WINDOW_BYTES,
    STREAM_WINDOW_BYTES,
    socket_address,
)
from mesh.controlplane.resources.edge_route import EDGE_ROUTES, IDLE
from mesh.controlplane.resources.local_reply import edge_replies, mesh_replies
from mesh.controlplane.resources.route import MESH_ROUTES, set_header
from mesh.controlplane.resources.tracing import request_id, tracing
from mesh.controlplane.topology import Endpoint, Topology
from mesh.controlplane.tuning import Tuning
from mesh.controlplane.xds.messages import Spec, typed

TRACE_ID = "x-ringmesh-trace-id"
MAX_CONCURRENT_STREAMS = 1000


def edge_listener(topology: Topology, tuning: Tuning) -> Spec:
    """The public port: HTTP/1.1 and HTTP/2, both in clear text, told apart by their first bytes."""
    manager = _connection_manager(
        "edge",
        EDGE_ROUTES,
        codec_type="AUTO",
        # Ends x-envoy-* headers from outside and makes the peer's address the client's.
        use_remote_address=True,
        normalize_path=True,
        merge_slashes=True,
        stream_idle_timeout=IDLE,
        request_headers_timeout="10s",
        common_http_protocol_options={"idle_timeout": IDLE},
        http2_protocol_options=_http2(keepalive_interval_s=30, keepalive_timeout_s=10),
        local_reply_config=edge_replies(),
        access_log=[_access_log()],
        http_filters=[_trace_id_filter(), _router()],
        **tracing("envoy-edge", topology.collector, tuning.sample_ratio),
    )
    return _listener("edge", topology.edge, manager)


def mesh_listener(topology: Topology, tuning: Tuning) -> Spec:
    """The port that the gateway dials: gRPC only."""
    manager = _connection_manager(
        "mesh",
        MESH_ROUTES,
        codec_type="HTTP2",
        stream_idle_timeout="0s",
        http2_protocol_options=_http2(keepalive_interval_s=10, keepalive_timeout_s=5),
        local_reply_config=mesh_replies(),
        http_filters=[_router()],
        **tracing("envoy-mesh", topology.collector, tuning.sample_ratio),
    )
    return _listener("mesh", topology.mesh, manager)


def _listener(name: str, endpoint: Endpoint, manager: Spec) -> Spec:
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "name": name,
        "address": socket_address(endpoint),
        # Two Envoys must never share a port unknowingly.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": CONNECTION_BUFFER_BYTES,
        "filter_chains": [{"filters": filters}],
    }


def _connection_manager(name: str, routes: str, **fields: Any) -> Spec:
    return typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=name,
        rds={"route_config_name": routes, "config_source": ADS},
        server_name="ringmesh",
        request_id_extension=request_id(),
        stream_error_on_invalid_http_message=True,
        **fields,
    )


def _http2(*, keepalive_interval_s: int, keepalive_timeout_s: int) -> Spec:
    keepalive = {"interval": f"{keepalive_interval_s}s", "timeout": f"{keepalive_timeout_s}s"}
    return {
        "max_concurrent_streams": MAX_CONCURRENT_STREAMS,
        "initial_stream_window_size": STREAM_WINDOW_BYTES,
        "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
        "connection_keepalive": keepalive,
    }


def _router() -> Spec:
    config = typed("envoy.extensions.filters.http.router.v3.Router")
    return {"name": "envoy.filters.http.router", "typed_config": config}


def _trace_id_filter() -> Spec:
    """A filter and no route header: a filter sees Envoy's own answers as well."""
    mutation = {"append": set_header(TRACE_ID, "%TRACE_ID%")}
    config = typed(
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={"response_mutations": [mutation]},
    )
    return {"name": "envoy.filters.http.header_mutation", "typed_config": config}


def _access_log() -> Spec:
    fields = {
        "time": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(:PATH)%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
        "flags": "%RESPONSE_FLAGS%",
        "duration_ms": "%DURATION%",
        "received_bytes": "%BYTES_RECEIVED%",
        "sent_bytes": "%BYTES_SENT%",
        "trace_id": "%TRACE_ID%",
        "cluster": "%UPSTREAM_CLUSTER%",
        "upstream": "%UPSTREAM_HOST%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "user_agent": "%REQ(USER-AGENT)%",
    }
    config = typed(
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        log_format={"json_format": fields},
    )
    return {"name": "envoy.access_loggers.stdout", "typed_config": config}
