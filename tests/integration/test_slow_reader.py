"""A reader who falls behind its generation gets all of it, in order, by whatever way it went."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc
import pytest

from mesh.pb import node_pb2, node_pb2_grpc
from mesh.server import ServiceBinding, serve
from mesh.telemetry import open_telemetry
from services.inference.generate_servicer import NodeServicer
from services.inference.llm.model import LoadedLanguageModel
from services.inference.llm.request import GenerationRequest, SamplingRequest
from tests.unit.llm.toy_backend import ToyBackend
from tests.unit.llm.toy_model import OneModel, open_toy

TOKENS = 1500
LOGPROBS = 20
"""With so many to each token, the answer is many times what a connection holds."""


@dataclass
class Rig:
    stub: node_pb2_grpc.NodeStub
    model: LoadedLanguageModel
    models: OneModel


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        model = await open_toy("toy", ToyBackend(context_tokens=TOKENS + 8))
        stack.push_async_callback(model.close)
        telemetry = stack.enter_context(open_telemetry("test", "test-1", otlp_endpoint=None))
        models = OneModel(model)
        binding = ServiceBinding(
            "ringmesh.node.v1.Node",
            node_pb2_grpc.add_NodeServicer_to_server,
            NodeServicer("node-a", models, telemetry.tracer),
        )
        server = await stack.enter_async_context(
            serve(listen="127.0.0.1:0", services=[binding], telemetry=telemetry)
        )
        options = [("grpc.http2.bdp_probe", 0)]  # or its window grows with what it is sent
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options)
        )
        yield Rig(node_pb2_grpc.NodeStub(channel), model, models)


async def test_a_reader_who_falls_behind_misses_nothing(rig: Rig) -> None:
    call = rig.stub.Generate(
        node_pb2.GenerateRequest(
            model_name="toy",
            text="12",
            sampling=node_pb2.Sampling(temperature=0),
            max_tokens=TOKENS,
            ignore_eos=True,
            logprobs=LOGPROBS,
        )
    )
    reading = aiter(call)
    first = await anext(reading)
    while rig.model.occupancy.running:
        await asyncio.sleep(0)
    assert rig.models.counts.snapshot().inference_stats.success.count == 0  # it is not all sent yet
    events = [first, *[event async for event in reading]]
    greedy = SamplingRequest(temperature=0)
    alone = await rig.model.generate_text(GenerationRequest("12", greedy, TOKENS, ignore_eos=True))
    assert tuple(t for event in events for t in event.delta.token_ids) == alone.token_ids
    assert sum(len(event.delta.logprobs) for event in events) == TOKENS
    assert "".join(event.delta.text for event in events) == alone.text
    deltas = sum(event.HasField("delta") for event in events)
    assert deltas < TOKENS  # some came together, for want of room
    counts = rig.models.counts.snapshot()
    assert counts.inference_stats.success.count == 1
    with_text = sum(bool(event.delta.text) for event in events)
    assert sum(each.success.count for each in counts.response_stats.values()) == with_text
