"""A node that answers by script: it echoes tensors, counts words, and breaks off when told to."""

import asyncio
from dataclasses import dataclass, field

import grpc
import numpy as np

from mesh.errors import InvalidArgument, QueueFull
from mesh.pb import inference_pb2 as oip
from mesh.pb import node_pb2
from mesh.pb.inference_pb2_grpc import GRPCInferenceServiceServicer
from mesh.pb.node_pb2_grpc import NodeServicer
from mesh.tensor import encode_raw, validate_request

RECEIPT = (("x-ringmesh-node", "node-1"), ("x-ringmesh-version", "1"))
WORDS = 12


@dataclass
class ScriptedNode(GRPCInferenceServiceServicer, NodeServicer):
    """Echoes tensors and counts words; notes what it was sent."""

    metadata: list[dict[str, str]] = field(default_factory=list)
    generations: list[node_pb2.GenerateRequest] = field(default_factory=list)
    deaths: list[int] = field(default_factory=list)
    """After how many words of its call each coming generation breaks off."""
    end_early: bool = False
    starts: bool = True
    is_mute: bool = False
    """Whether questions about statistics fail."""
    statuses: list[node_pb2.ModelStatus] = field(default_factory=list)
    """What the node says of its versions."""
    time_left_s: float | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    stalled: asyncio.Event = field(default_factory=asyncio.Event)

    def _see(self, context) -> None:
        self.metadata.append(dict(context.invocation_metadata() or ()))

    async def ListModels(self, request, context):
        return node_pb2.ListModelsResponse(models=self.statuses)

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

    async def ModelStatistics(self, request, context):
        del request
        if self.is_mute:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "connection refused")
        answer = oip.ModelStatisticsResponse()
        for name, version in (("identity", 1), ("minilm", 1), ("minilm", 2)):
            counts = answer.model_stats.add(name=name, version=str(version), last_inference=77)
            counts.inference_count = 3
            counts.inference_stats.success.count = 2
            counts.inference_stats.success.ns = 2**40
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
        if request.regex == "(":
            raise InvalidArgument("the regular expression: unclosed group", field="regex")
        if not self.starts:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "connection refused")
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
