"""Routes of the edge: one public port for everything.

gRPC goes to the registry, to the config service, or else to the gateway, which answers
UNIMPLEMENTED to what it does not know; everything that is not gRPC goes to the gateway's HTTP port.
Headers that the mesh sets for itself never enter from outside. Only calls that no server has begun
are repeated here: repeating work is the mesh listener's business.
"""

from __future__ import annotations

from mesh.controlplane.resources import cluster
from mesh.controlplane.resources.route import (
    AFFINITY,
    CONFIG_PATHS,
    MODEL,
    VERSION,
    previous_hosts,
)
from mesh.controlplane.xds.messages import Spec

EDGE_ROUTES = "edge"
IDLE = "3600s"
"""A model may think this long before its first byte."""


def edge_routes() -> Spec:
    """All routes of the edge listener."""
    routes = [
        _grpc("/ringmesh.registry.v1.Registry/", cluster.REGISTRY),
        _grpc(CONFIG_PATHS, cluster.CONFIG),
        _grpc("/", cluster.GATEWAY_GRPC),
        {"name": "http", "match": {"prefix": "/"}, "route": _to(cluster.GATEWAY_HTTP)},
    ]
    host = {"name": "edge", "domains": ["*"], "routes": routes}
    return {
        "name": EDGE_ROUTES,
        "validate_clusters": False,
        "request_headers_to_remove": [MODEL, VERSION, AFFINITY],
        "virtual_hosts": [host],
    }


def _grpc(prefix: str, name: str) -> Spec:
    match = {"prefix": prefix, "grpc": {}}
    return {"name": f"grpc {prefix}", "match": match, "route": _to(name)}


def _to(name: str) -> Spec:
    retry = {
        "retry_on": "connect-failure,refused-stream,reset-before-request",
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        **previous_hosts(),
    }
    # A deadline is kept by the gateway, which says so; a timer here would end streams in its place,
    # and one that has begun to answer with a reset that reads as a fault.
    return {"cluster": name, "idle_timeout": IDLE, "retry_policy": retry, "timeout": "0s"}
