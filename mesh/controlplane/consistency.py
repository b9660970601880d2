"""Whether a snapshot hangs together: what is said in one resource must hold in the others.

Envoy accepts a route to a cluster that does not exist and answers 503 when somebody takes it; so
this is asked before a snapshot is served, and an inconsistent one is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mesh.controlplane.snapshot import ResourceType, Snapshot

EDS = "EDS"


def find_problems(snapshot: Snapshot, static_clusters: Iterable[str] = ()) -> tuple[str, ...]:
    """Each thing that is wrong, in words; nothing if the snapshot may be served."""
    clusters = {*snapshot.of(ResourceType.CLUSTER), *static_clusters}
    return (
        *_missing_clusters(snapshot, clusters),
        *_missing_endpoints(snapshot),
        *_missing_routes(snapshot),
        *_bad_weights(snapshot),
        *_repeated_domains(snapshot),
        *_repeated_addresses(snapshot),
    )


def _missing_clusters(snapshot: Snapshot, clusters: set[str]) -> Iterator[str]:
    for kind in (ResourceType.ROUTE, ResourceType.LISTENER):
        for resource in snapshot.of(kind).values():
            for name in sorted(set(_referred_clusters(resource.spec)) - clusters):
                yield f"{kind.name.lower()} {resource.name} names cluster {name}, which is missing"


def _referred_clusters(spec: Any) -> Iterator[str]:
    for node in _walk(spec):
        if "route" in node and isinstance(node["route"], Mapping) and "cluster" in node["route"]:
            yield node["route"]["cluster"]
        if "weighted_clusters" in node:
            yield from (each["name"] for each in node["weighted_clusters"]["clusters"])
        if "envoy_grpc" in node:
            yield node["envoy_grpc"]["cluster_name"]


def _missing_endpoints(snapshot: Snapshot) -> Iterator[str]:
    dynamic = {
        name
        for name, cluster in snapshot.of(ResourceType.CLUSTER).items()
        if cluster.spec.get("type") == EDS
    }
    assigned = set(snapshot.of(ResourceType.ENDPOINT))
    yield from (f"cluster {name} has no endpoints resource" for name in sorted(dynamic - assigned))
    yield from (f"endpoints {name} belong to no cluster" for name in sorted(assigned - dynamic))


def _missing_routes(snapshot: Snapshot) -> Iterator[str]:
    routes = snapshot.of(ResourceType.ROUTE)
    for listener in snapshot.of(ResourceType.LISTENER).values():
        for node in _walk(listener.spec):
            name = node.get("route_config_name")
            if name is not None and name not in routes:
                yield f"listener {listener.name} names routes {name}, which are missing"


def _bad_weights(snapshot: Snapshot) -> Iterator[str]:
    for resource in snapshot.of(ResourceType.ROUTE).values():
        for node in _walk(resource.spec):
            weighted = node.get("weighted_clusters")
            if weighted and not all(each["weight"] > 0 for each in weighted["clusters"]):
                yield f"route {resource.name} has a weight that is not positive"


def _repeated_domains(snapshot: Snapshot) -> Iterator[str]:
    for resource in snapshot.of(ResourceType.ROUTE).values():
        hosts = resource.spec["virtual_hosts"]
        domains = [domain for host in hosts for domain in host["domains"]]
        for domain in sorted({each for each in domains if domains.count(each) > 1}):
            yield f"route {resource.name} has two virtual hosts for domain {domain}"


def _repeated_addresses(snapshot: Snapshot) -> Iterator[str]:
    seen: dict[tuple[str, int], str] = {}
    for name, listener in sorted(snapshot.of(ResourceType.LISTENER).items()):
        socket = listener.spec["address"]["socket_address"]
        address = (socket["address"], socket["port_value"])
        if address in seen:
            yield f"listeners {seen[address]} and {name} share {address[0]}:{address[1]}"
        seen[address] = name


def _walk(spec: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(spec, Mapping):
        yield spec
        for value in spec.values():
            yield from _walk(value)
    elif isinstance(spec, list | tuple):
        for value in spec:
            yield from _walk(value)
