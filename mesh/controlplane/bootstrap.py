"""Envoy's bootstrap: the only configuration that it is given as a file.

It says who this Envoy is, where its admin page listens, and where the control plane is; all else
comes from there. The program that starts Envoy writes it as JSON.
"""

from __future__ import annotations

from typing import Any

from mesh.controlplane.resources.cluster import ADS, fixed_cluster, socket_address
from mesh.controlplane.topology import Endpoint
from mesh.controlplane.xds.messages import typed

XDS = "xds"
MAX_CONNECTIONS = 20_000


def build_bootstrap(
    node_id: str,
    admin_address: str,
    controlplane_address: str,
    *,
    max_connections: int = MAX_CONNECTIONS,
) -> dict[str, Any]:
    """The bootstrap; addresses are `host:port`."""
    return {
        "node": {"id": node_id, "cluster": "ringmesh"},
        "admin": {"address": socket_address(Endpoint.parse(admin_address))},
        "dynamic_resources": {"ads_config": _ads(), "cds_config": ADS, "lds_config": ADS},
        "static_resources": {
            "clusters": [fixed_cluster(XDS, Endpoint.parse(controlplane_address))]
        },
        "layered_runtime": {"layers": [{"name": "static", "static_layer": _runtime()}]},
        "overload_manager": {"resource_monitors": [_connection_limit(max_connections)]},
    }


def _ads() -> dict[str, Any]:
    # Envoy may be up before the control plane: by default it then waits up to half a minute.
    back_off = {"base_interval": "0.25s", "max_interval": "2s"}
    retry = {"retry_back_off": back_off}
    return {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [{"envoy_grpc": {"cluster_name": XDS, "retry_policy": retry}}],
    }


def _runtime() -> dict[str, Any]:
    return {
        # Rings may stay stale when members change in batches (envoyproxy/envoy#45212).
        "envoy.reloadable_features.coalesce_lb_rebuilds_on_batch_update": False,
        # A trace can be looked at within about a second after its request ended.
        "tracing.opentelemetry.flush_interval_ms": 500,
        "tracing.opentelemetry.min_flush_spans": 64,
    }


def _connection_limit(connections: int) -> dict[str, Any]:
    name = "envoy.resource_monitors.global_downstream_max_connections"
    config = typed(
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=connections,
    )
    return {"name": name, "typed_config": config}
