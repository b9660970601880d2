"""A whole gateway, both listeners, over a node that is a real gRPC server with scripted answers.

What Envoy does between them is left out: the gateway dials the node itself.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
from opentelemetry.trace import NoOpTracerProvider, TracerProvider
from prometheus_client import CollectorRegistry

from mesh.catalog import Instance, KvEntry
from mesh.channel import open_channel
from mesh.deployment import DEPLOYMENTS_PREFIX, Deployment, TargetSpec, VersionSpec
from mesh.errors import InvalidArgument, QueueFull
from mesh.manifest import Manifest
from mesh.pb import inference_pb2 as oip
from mesh.pb import node_pb2
from mesh.pb.inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from mesh.pb.node_pb2_grpc import NodeServicer, add_NodeServicer_to_server
from mesh.server import ServiceBinding, serve
from mesh.telemetry import Telemetry
from mesh.tensor import encode_raw, validate_request
from services.gateway.directory_watch import DirectoryWatch
from services.gateway.front import make_front
from services.gateway.http.server import serve_http
from services.gateway.settings import GatewaySettings

MODELS = {"smollm2": "gguf", "minilm": "sentence-transformers", "identity": "identity"}
TASKS = {"gguf": "text-generation", "sentence-transformers": "text-embedding", "identity": "tensor"}
RECEIPT = (("x-ringmesh-node", "node-1"), ("x-ringmesh-version", "1"))
MAX_BODY_BYTES = 1024 * 1024
WORDS = 12


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


def make_watch(*extra: Deployment, ready: frozenset[str] | None = None) -> DirectoryWatch:
    watch = DirectoryWatch()
    deployments = [make_deployment(model, format_) for model, format_ in MODELS.items()]
    watch.take_deployments(
        {
            DEPLOYMENTS_PREFIX + each.model: KvEntry(each.to_json(), 1)
            for each in (*deployments, *extra)
        }
    )
    tags = frozenset(f"{model}@1" for model in MODELS) if ready is None else ready
    watch.take_instances((Instance("inference-1", "inference", "127.0.0.1", 1, tags),))
    return watch


@dataclass
class ScriptedNode(GRPCInferenceServiceServicer, NodeServicer):
    """Echoes tensors and counts words; notes what it was sent."""

    metadata: list[dict[str, str]] = field(default_factory=list)
    generations: list[node_pb2.GenerateRequest] = field(default_factory=list)
    deaths: list[int] = field(default_factory=list)
    """After how many words of its call each coming generation breaks off."""
    end_early: bool = False
    time_left_s: float | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    stalled: asyncio.Event = field(default_factory=asyncio.Event)

    def _see(self, context) -> None:
        self.metadata.append({k: v for k, v in context.invocation_metadata() or ()})

    async def ModelReady(self, request, context):
        self._see(context)
        return oip.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request, context):
        self._see(context)
        answer = oip.ModelMetadataResponse(name=request.name, versions=["1"], platform="test")
        answer.inputs.add(name="text", datatype="BYTES", shape=[-1])
        answer.outputs.add(name="embedding", datatype="FP32", shape=[-1, 2])
        await context.send_initial_metadata(RECEIPT)
        return answer

    async def ModelConfig(self, request, context):
        answer = oip.ModelConfigResponse()
        answer.config.name = request.name
        answer.config.max_batch_size = 4
        return answer

    async def ModelInfer(self, request, context):
        self._see(context)
        self.time_left_s = context.time_remaining()
        if any(tensor.name == "reset" for tensor in request.inputs):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "upstream connect error")
        tensors = validate_request(request)
        answer = oip.ModelInferResponse(
            model_name=request.model_name, model_version="1", id=request.id
        )
        if request.model_name == "minilm":
            self._embed(tensors, answer)
        else:
            self._echo(request, tensors, answer)
        await context.send_initial_metadata(RECEIPT)
        return answer

    def _embed(self, tensors, answer) -> None:
        texts = tensors[0].array()
        vectors = np.array([[len(t), 0.5] for t in texts], dtype=np.float32)
        answer.outputs.add(name="embedding", datatype="FP32", shape=vectors.shape)
        answer.raw_output_contents.append(encode_raw(vectors, "FP32"))
        answer.parameters["prompt_tokens"].int64_param = sum(len(t.split()) for t in texts)

    def _echo(self, request, tensors, answer) -> None:
        wanted = [output.name for output in request.outputs] or [t.name for t in tensors]
        for tensor in tensors:
            if tensor.name == "full":
                raise QueueFull("8 requests are waiting already", 2.4)
            if tensor.name in wanted:
                answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
                answer.raw_output_contents.append(tensor.raw)

    async def Generate(self, request, context):
        self._see(context)
        kept = node_pb2.GenerateRequest()
        kept.CopyFrom(request)
        self.generations.append(kept)
        if request.sampling.temperature == 2:
            raise InvalidArgument("the prompt has 9 tokens of 8", field="prompt")
        await context.send_initial_metadata(RECEIPT)
        started = node_pb2.Started(
            model_version="1", node="node-1", prompt_tokens=5, cached_tokens=2
        )
        yield node_pb2.GenerateResponse(started=started)
        death = self.deaths.pop(0) if self.deaths else None
        done = len(request.resume_token_ids)
        limit = request.max_tokens or WORDS
        for sent, token in enumerate(range(done, min(limit, WORDS))):
            if sent == death:
                if self.end_early:
                    return
                await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset by peer")
            if request.text == "stall" and token == 2:
                await self._stall()
            yield _word(token, request)
        reason = (
            node_pb2.FINISH_REASON_LENGTH if limit <= WORDS - 1 else node_pb2.FINISH_REASON_STOP
        )
        yield node_pb2.GenerateResponse(
            finished=node_pb2.Finished(
                reason=reason, prompt_tokens=5, completion_tokens=min(limit, WORDS)
            )
        )

    async def _stall(self) -> None:
        self.stalled.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


def _word(token: int, request) -> node_pb2.GenerateResponse:
    delta = node_pb2.Delta(text=f"w{token} ", token_ids=[token])
    if request.HasField("logprobs"):
        entry = delta.logprobs.add(token_id=token, token=f"w{token} ".encode(), logprob=-0.5)
        entry.top.add(token_id=token, token=f"w{token} ".encode(), logprob=-0.5)
    return node_pb2.GenerateResponse(delta=delta)


def text_of(words: int = WORDS) -> str:
    return "".join(f"w{i} " for i in range(words))


def make_telemetry(provider: TracerProvider | None = None) -> Telemetry:
    tracer = (provider or NoOpTracerProvider()).get_tracer("test")
    return Telemetry(tracer, CollectorRegistry(), 0)


@dataclass
class Rig:
    node: ScriptedNode
    watch: DirectoryWatch
    grpc: str
    http: str


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
        channel = await stack.enter_async_context(open_channel(options.mesh_address, telemetry))
        front = make_front(watch, channel, options, telemetry.tracer)
        gateway = await stack.enter_async_context(
            serve(
                listen="127.0.0.1:0",
                services=front.grpc,
                telemetry=telemetry,
                drain_timeout_s=0.2,
            )
        )
        port = await stack.enter_async_context(
            serve_http(front.http, listen="127.0.0.1:0", drain_timeout_s=1)
        )
        yield Rig(node, watch, f"127.0.0.1:{gateway.port}", f"127.0.0.1:{port}")
