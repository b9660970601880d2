"""The protocol's two lanes over real models: a node, and a gateway in front of it, in one process.

What Envoy does between them is left out: the gateway dials the node itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from mesh.catalog import Instance, KvEntry
from mesh.deployment import DEPLOYMENTS_PREFIX, Deployment, TargetSpec
from mesh.manifest import Format, Manifest, Task
from services.gateway.directory_watch import DirectoryWatch
from services.gateway.settings import GatewaySettings
from services.inference.models.identity import open_identity
from services.inference.models.loaded_model import LoadedModel
from tests.integration.gateway_rig import make_telemetry, open_gateway
from tests.integration.node_rig import NodeRig, open_node, spec_of


@dataclass(frozen=True)
class Lanes:
    """Where to ask: the node itself, and the gateway's two listeners."""

    node: NodeRig
    gateway: str
    http: str

    def grpc(self, lane: str) -> str:
        """The gRPC address of a lane, `node` or `gateway`."""
        return self.node.address if lane == "node" else self.gateway


def deployment_of(model: LoadedModel, task: Task, format_: Format) -> Deployment:
    """A deployment whose one target is this version."""
    manifest = Manifest(name=model.name, task=task, format=format_)
    return Deployment(
        model=model.name,
        revision=1,
        replicas=1,
        targets=(TargetSpec(version=model.version, weight=100),),
        aliases={"champion": model.version},
        versions={model.version: spec_of(manifest, model.version)},
    )


def watch_of(deployments: Sequence[Deployment], port: int) -> DirectoryWatch:
    """What a gateway knows where one node has all of them ready."""
    watch = DirectoryWatch()
    watch.take_deployments(
        {DEPLOYMENTS_PREFIX + each.model: KvEntry(each.to_json(), 1) for each in deployments}
    )
    tags = frozenset(f"{each.model}@{version}" for each in deployments for version in each.versions)
    watch.take_instances((Instance("inference-a", "inference", "127.0.0.1", port, tags),))
    return watch


def open_identity_model() -> LoadedModel:
    """The built-in model, which returns what it gets."""
    return open_identity(spec_of(Manifest(name="identity", task="tensor", format="identity")))


@asynccontextmanager
async def open_lanes(*models: tuple[LoadedModel, Task, Format]) -> AsyncIterator[Lanes]:
    """A node that holds these models, and a gateway that knows of them."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(open_node([model for model, _, _ in models]))
        options = GatewaySettings(mesh_address=node.address)
        watch = watch_of(
            [deployment_of(*each) for each in models], int(node.address.rpartition(":")[2])
        )
        listeners = open_gateway(watch, options, make_telemetry())
        gateway, http = await stack.enter_async_context(listeners)
        yield Lanes(node, gateway, http)
