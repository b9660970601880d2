"""From what is known to what Envoy should see: one pure function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mesh.catalog import Instance
from mesh.controlplane.resources import cluster
from mesh.controlplane.resources.edge_route import edge_routes
from mesh.controlplane.resources.endpoint import grpc_endpoints, http_endpoints
from mesh.controlplane.resources.listener import edge_listener, mesh_listener
from mesh.controlplane.resources.route import cluster_name, mesh_routes
from mesh.controlplane.snapshot import ResourceType, Snapshot, make_snapshot
from mesh.controlplane.topology import Topology
from mesh.controlplane.tuning import Tuning
from mesh.controlplane.xds.messages import Spec
from mesh.deployment import Count, Deployment

GATEWAY = "gateway"
INFERENCE = "inference"
SERVICES = (GATEWAY, INFERENCE, cluster.REGISTRY, cluster.CONFIG)


@dataclass(frozen=True, slots=True)
class World:
    """What is known now: the live instances by service, the deployments by model, the tuning.

    `counts` is what versions need of a node's memory, as far as nodes have counted it.
    """

    instances: Mapping[str, tuple[Instance, ...]] = field(default_factory=dict)
    deployments: Mapping[str, Deployment] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=Tuning)
    counts: Mapping[tuple[str, int], Count] = field(default_factory=dict)

    def of(self, service: str) -> tuple[Instance, ...]:
        """The live instances of a service."""
        return self.instances.get(service, ())


def build(world: World, topology: Topology, previous: Snapshot | None = None) -> Snapshot:
    """Everything that Envoy should have, encoded and versioned.

    `previous` only saves work: what has not changed is not encoded again.
    """
    deployments = world.deployments.values()
    versions = sorted({name for each in deployments for name in _versions(each)})
    return make_snapshot(
        {
            ResourceType.CLUSTER: _clusters(versions, topology, world.tuning),
            ResourceType.ENDPOINT: _endpoints(versions, world),
            ResourceType.LISTENER: [
                edge_listener(topology, world.tuning),
                mesh_listener(topology, world.tuning),
            ],
            ResourceType.ROUTE: [edge_routes(), mesh_routes(deployments)],
        },
        previous,
    )


def _versions(deployment: Deployment) -> Iterable[str]:
    return (cluster_name(deployment.model, version) for version in deployment.versions)


def _clusters(versions: list[str], topology: Topology, tuning: Tuning) -> list[Spec]:
    collector = topology.collector
    return [
        *([] if collector is None else [cluster.collector_cluster(collector)]),
        cluster.http_cluster(cluster.GATEWAY_HTTP),
        cluster.grpc_cluster(cluster.GATEWAY_GRPC),
        cluster.grpc_cluster(cluster.REGISTRY),
        cluster.grpc_cluster(cluster.CONFIG),
        *(cluster.model_cluster(version, tuning) for version in versions),
    ]


def _endpoints(versions: list[str], world: World) -> list[Spec]:
    return [
        http_endpoints(cluster.GATEWAY_HTTP, world.of(GATEWAY)),
        grpc_endpoints(cluster.GATEWAY_GRPC, world.of(GATEWAY)),
        grpc_endpoints(cluster.REGISTRY, world.of(cluster.REGISTRY)),
        grpc_endpoints(cluster.CONFIG, world.of(cluster.CONFIG)),
        *(_model_endpoints(version, world.of(INFERENCE)) for version in versions),
    ]


def _model_endpoints(version: str, nodes: Iterable[Instance]) -> Spec:
    return grpc_endpoints(version, (node for node in nodes if version in node.tags))
