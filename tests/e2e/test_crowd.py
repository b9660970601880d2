"""Two hundred callers at once at the edge: whoever shares a batch or a node, each gets its own."""

from __future__ import annotations

import asyncio

import grpc

from mesh.pb import inference_pb2 as oip
from mesh.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e.harness import Mesh
from tests.integration.crowd import (
    ask_alone,
    ask_identity,
    ask_in_crowd,
    ask_minilm,
    ask_unknown_output,
    ask_wrong_text,
    check_outcome,
    check_statistics,
    grpc_lane,
    make_crowd,
    since,
)

CALLERS = 200
ASKS = [*[ask_identity, ask_minilm, ask_minilm] * 3, ask_wrong_text, ask_unknown_output]


async def test_everyone_in_a_crowd_gets_what_they_get_alone(mesh: Mesh) -> None:
    crowd = make_crowd(ASKS, CALLERS, seed=3)
    async with grpc.aio.insecure_channel(mesh.edge) as channel:
        stub = GRPCInferenceServiceStub(channel)
        edge = grpc_lane(stub.ModelInfer)
        alone = [await ask_alone(edge, caller) for caller in crowd]
        asked = oip.ModelStatisticsRequest(name="minilm")
        before = await stub.ModelStatistics(asked)
        calls = (ask_in_crowd(edge, caller) for caller in crowd)
        got = await asyncio.gather(*calls)
        after = await stub.ModelStatistics(asked)
    for caller, expected, outcome in zip(crowd, alone, got, strict=True):
        check_outcome(caller, expected, outcome)
    encoding = [n for n, caller in enumerate(crowd) if caller.request.model_name == "minilm"]
    check_statistics(
        since(after.model_stats[0], before.model_stats[0]),
        [crowd[n] for n in encoding],
        ok=sum(bool(got[n].response) for n in encoding),
    )
