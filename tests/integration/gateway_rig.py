"""A whole gateway, both listeners, over a node that is a real gRPC server with scripted answers.

What Envoy does between them is left out: the gateway dials the node itself.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from opentelemetry.trace import NoOpTracerProvider, TracerProvider
from prometheus_client import CollectorRegistry

from mesh.catalog import Instance, KvEntry
from mesh.channel import open_channel
from mesh.deployment import DEPLOYMENTS_PREFIX, Deployment, TargetSpec, VersionSpec
from mesh.manifest import Manifest
from mesh.pb.inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mesh.pb.node_pb2_grpc import add_NodeServicer_to_server
from mesh.server import ServiceBinding, serve
from mesh.telemetry import Telemetry, _served_calls
from services.gateway.directory_watch import DirectoryWatch
from services.gateway.front import make_front
from services.gateway.http.server import serve_http
from services.gateway.settings import GatewaySettings
from tests.integration.gateway_node_servicer import ScriptedNode

MODELS = {"smollm2": "gguf", "minilm": "sentence-transformers", "identity": "identity"}
TASKS = {"gguf": "text-generation", "sentence-transformers": "text-embedding", "identity": "tensor"}
MAX_BODY_BYTES = 1024 * 1024


def make_deployment(model: str, format_: str, versions=(1,), aliases=None) -> Deployment:
    manifest = Manifest(name=model, task=TASKS[format_], format=format_)
    specs = {
        v: VersionSpec(version=v, digest="0" * 64, manifest=manifest, files=()) for v in versions
    }
    return Deployment(
        model=model,
        revision=1,
        replicas=1,
        targets=(TargetSpec(version=versions[0], weight=100),),
        aliases={"champion": versions[0]} if aliases is None else aliases,
        versions=specs,
    )


def make_watch(
    *extra: Deployment, ready: frozenset[str] | None = None, ports: Sequence[int] = (1,)
) -> DirectoryWatch:
    watch = DirectoryWatch()
    deployments = [make_deployment(model, format_) for model, format_ in MODELS.items()]
    watch.take_deployments(
        {
            DEPLOYMENTS_PREFIX + each.model: KvEntry(each.to_json(), 1)
            for each in (*deployments, *extra)
        }
    )
    tags = frozenset(f"{model}@1" for model in MODELS) if ready is None else ready
    watch.take_instances(
        tuple(Instance(f"inference-{p}", "inference", "127.0.0.1", p, tags) for p in ports)
    )
    return watch


def make_telemetry(provider: TracerProvider | None = None) -> Telemetry:
    tracer = (provider or NoOpTracerProvider()).get_tracer("test")
    registry = CollectorRegistry()
    return Telemetry(tracer, registry, _served_calls(registry), metrics_port=0)


@dataclass
class Rig:
    node: ScriptedNode
    watch: DirectoryWatch
    grpc: str
    http: str
    node_port: int

    def reset(self) -> None:
        """As it was when it was opened, for the next test."""
        vars(self.node).update(vars(ScriptedNode()))
        self.watch.now = make_watch(ports=[self.node_port]).now


@asynccontextmanager
async def open_gateway(
    watch: DirectoryWatch, options: GatewaySettings, telemetry: Telemetry
) -> AsyncIterator[tuple[str, str]]:
    """The gateway's two listeners, over whatever it is told of; yields where they listen."""
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(open_channel(options.mesh_address, telemetry))
        front = make_front(watch, channel, options, telemetry)
        served = await stack.enter_async_context(
            serve(
                listen="127.0.0.1:0",
                services=front.grpc,
                telemetry=telemetry,
                implementation=options.grpc_server,
                drain_timeout_s=0.2,
            )
        )
        port = await stack.enter_async_context(
            serve_http(front.http, listen="127.0.0.1:0", drain_timeout_s=1)
        )
        yield f"127.0.0.1:{served.port}", f"127.0.0.1:{port}"


@asynccontextmanager
async def open_rig(*, telemetry: Telemetry | None = None, **settings) -> AsyncIterator[Rig]:
    node = ScriptedNode()
    watch = make_watch()
    async with AsyncExitStack() as stack:
        telemetry = telemetry or make_telemetry()
        bindings = [
            ServiceBinding(
                "inference.GRPCInferenceService", add_GRPCInferenceServiceServicer_to_server, node
            ),
            ServiceBinding("ringmesh.node.v1.Node", add_NodeServicer_to_server, node),
        ]
        served = await stack.enter_async_context(
            serve(
                listen="127.0.0.1:0",
                services=bindings,
                telemetry=make_telemetry(),
                drain_timeout_s=0.2,
                implementation="grpcio",
            )
        )
        options = GatewaySettings(
            mesh_address=f"127.0.0.1:{served.port}",
            max_body_bytes=MAX_BODY_BYTES,
            **settings,
        )
        grpc, http = await stack.enter_async_context(open_gateway(watch, options, telemetry))
        yield Rig(node, watch, grpc, http, served.port)
