"""The state of the world as Envoy should see it: an immutable, versioned value.

A resource's version is the hash of its content, so a control plane that restarts arrives at the
same versions and has nothing to send again. Knows no stream and no Consul.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from mesh.controlplane.xds.messages import TYPE_URL_PREFIX, Spec, encode


class ResourceType(StrEnum):
    """The kinds of resources, in the order in which additions are pushed."""

    CLUSTER = f"{TYPE_URL_PREFIX}envoy.config.cluster.v3.Cluster"
    ENDPOINT = f"{TYPE_URL_PREFIX}envoy.config.endpoint.v3.ClusterLoadAssignment"
    LISTENER = f"{TYPE_URL_PREFIX}envoy.config.listener.v3.Listener"
    ROUTE = f"{TYPE_URL_PREFIX}envoy.config.route.v3.RouteConfiguration"


@dataclass(frozen=True, slots=True)
class Resource:
    """One named resource: what it says, its wire form, and the hash of what it says."""

    name: str
    spec: Spec
    body: bytes
    version: str


def make_resource(kind: ResourceType, spec: Spec) -> Resource:
    """Encodes `spec` strictly; raises `BadSpec` where Envoy's API has no such thing."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return Resource(resource_name(kind, spec), spec, encode(kind, spec), _digest(text))


def resource_name(kind: ResourceType, spec: Spec) -> str:
    """The name under which a resource is subscribed to."""
    name: str = spec["cluster_name"] if kind is ResourceType.ENDPOINT else spec["name"]
    return name


@dataclass(frozen=True)
class Snapshot:
    """All resources of all kinds, by name."""

    resources: Mapping[ResourceType, Mapping[str, Resource]]

    @cached_property
    def version(self) -> str:
        """The hash of every resource's version."""
        return _digest(
            "\n".join(
                f"{kind.name} {name} {resource.version}"
                for kind in ResourceType
                for name, resource in sorted(self.of(kind).items())
            )
        )

    def of(self, kind: ResourceType) -> Mapping[str, Resource]:
        """The resources of one kind."""
        return self.resources.get(kind, {})

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.of(kind))} {kind.name.lower()}s" for kind in ResourceType)
        return f"<Snapshot {self.version}: {counts}>"


def make_snapshot(
    specs: Mapping[ResourceType, Iterable[Spec]], previous: Snapshot | None = None
) -> Snapshot:
    """Encodes every spec, but takes over what `previous` has encoded; no name may come twice."""
    before = Snapshot({}) if previous is None else previous
    return Snapshot({kind: _by_name(kind, found, before.of(kind)) for kind, found in specs.items()})


def _by_name(
    kind: ResourceType, specs: Iterable[Spec], before: Mapping[str, Resource]
) -> Mapping[str, Resource]:
    named: dict[str, Resource] = {}
    for spec in specs:
        name = resource_name(kind, spec)
        if name in named:
            raise ValueError(f"two {kind.name.lower()}s are called {name}")
        known = before.get(name)
        if known is None or known.spec != spec:
            known = make_resource(kind, spec)
        named[name] = known
    return named


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
