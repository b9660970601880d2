"""Endpoints: the instances behind a cluster.

An endpoint is hashed by its service id, so a node that comes back on another port keeps its keys.
Envoy takes addresses and no names here, and refuses the whole list for one that is wrong; so an
instance without a usable address is left out.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.catalog import Instance
from mesh.controlplane.resources.cluster import is_ip, socket_address
from mesh.controlplane.topology import Endpoint
from mesh.controlplane.xds.messages import Spec

HTTP_PORT = "http_port"
PORTS = range(1, 65536)


def grpc_endpoints(cluster: str, instances: Iterable[Instance]) -> Spec:
    """The instances at their gRPC ports."""
    return _assignment(cluster, ((each, each.port) for each in instances))


def http_endpoints(cluster: str, instances: Iterable[Instance]) -> Spec:
    """The instances at the HTTP ports that they announce; those that announce none are left out."""
    ports = ((each, each.meta.get(HTTP_PORT, "")) for each in instances)
    return _assignment(cluster, ((each, int(port)) for each, port in ports if port.isdecimal()))


def _assignment(cluster: str, ports: Iterable[tuple[Instance, int]]) -> Spec:
    usable = ((each, port) for each, port in ports if is_ip(each.address) and port in PORTS)
    found = [_lb_endpoint(each, port) for each, port in sorted(usable, key=lambda p: p[0].id)]
    localities = [{"lb_endpoints": found}] if found else []
    return {"cluster_name": cluster, "endpoints": localities}


def _lb_endpoint(instance: Instance, port: int) -> Spec:
    return {
        "endpoint": {"address": socket_address(Endpoint(instance.address, port))},
        "metadata": {"filter_metadata": {"envoy.lb": {"hash_key": instance.id}}},
    }
