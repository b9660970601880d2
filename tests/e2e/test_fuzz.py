"""Broken messages at every door of a whole mesh: none meets a fault of the server's.

More of them by name: `make fuzz`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

import grpc
import httpx
import pytest

from tests.e2e.harness import Mesh
from tests.fuzz.corpus import (
    HttpCall,
    generate_requests,
    http_calls,
    infer_requests,
    oip_calls,
)
from tests.fuzz.mutation import RUNS, broken

ANSWER_S = 20.0
AT_ONCE = 8
FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
NOT_OFFERED, UNAVAILABLE = 501, 503
OIP = "/inference.GRPCInferenceService/"


@pytest.fixture(autouse=True)
def nothing_broke(mesh: Mesh, http: httpx.Client) -> Iterator[None]:
    pids = {name: each.pid for name, each in mesh.record.processes.items()}
    yield
    settings = {"trace_level": ["TIMESTAMPS"], "trace_rate": []}
    assert http.post("/v2/trace/setting", json=settings).is_success
    assert http.post("/v2/logging", json={"log_info": True, "log_verbose_level": 0}).is_success
    assert {name: each.pid for name, each in mesh.record.processes.items()} == pids
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}
    assert http.post("/v2/models/identity/infer", json={"inputs": [tensor]}).is_success
    text = {"text_input": "Once", "parameters": {"max_tokens": 2}}
    assert http.post("/v2/models/smollm2/generate", json=text).is_success


@pytest.fixture(params=["edge", "node"])
def door(request: pytest.FixtureRequest, mesh: Mesh) -> str:
    if request.param == "edge":
        return mesh.edge
    service = mesh.instances("inference")[0]["Service"]
    return f"{service['Address']}:{service['Port']}"


async def outcome(call: grpc.aio.Call) -> grpc.StatusCode:
    """The status of a call, with whatever it answers read."""
    try:
        if isinstance(call, AsyncIterator) or hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def send_all(door: str, method: str, kind: str, messages: Sequence[bytes]) -> None:
    """Sends broken messages and asserts that none finds a fault."""
    slots = asyncio.Semaphore(AT_ONCE)
    async with grpc.aio.insecure_channel(door) as channel:
        bare = getattr(channel, kind)(method)

        async def send(data: bytes) -> None:
            async with slots:
                sent = iter([data]) if kind == "stream_stream" else data
                status = await outcome(bare(sent, timeout=ANSWER_S))
            assert status not in FAULTS, (method, status, data)
            assert status is not grpc.StatusCode.DEADLINE_EXCEEDED or kind != "unary_unary", data

        async with asyncio.TaskGroup() as group:
            for data in messages:
                group.create_task(send(data))


@pytest.mark.parametrize("method", oip_calls())
async def test_unary_calls(door: str, method: str) -> None:
    runs = RUNS if method == "ModelInfer" else RUNS // 8
    await send_all(door, OIP + method, "unary_unary", list(broken(oip_calls()[method], runs)))


async def test_streams(door: str) -> None:
    whole = [each.SerializeToString() for each in infer_requests()]
    await send_all(door, OIP + "ModelStreamInfer", "stream_stream", list(broken(whole, RUNS // 2)))


async def test_generations(mesh: Mesh) -> None:
    service = mesh.instances("inference")[0]["Service"]
    node = f"{service['Address']}:{service['Port']}"
    whole = [each.SerializeToString() for each in generate_requests()]
    method = "/ringmesh.node.v1.Node/Generate"
    await send_all(node, method, "unary_stream", list(broken(whole, RUNS // 4)))


@pytest.mark.parametrize("call", http_calls(), ids=lambda call: call.path)
async def test_bodies(mesh: Mesh, call: HttpCall) -> None:
    slots = asyncio.Semaphore(AT_ONCE)
    headers = {"content-type": "application/json"}
    if call.header_length is not None:
        headers["inference-header-content-length"] = str(call.header_length)
    async with httpx.AsyncClient(base_url=f"http://{mesh.edge}", timeout=ANSWER_S) as client:

        async def send(body: bytes) -> None:
            async with slots:
                answer = await client.post(call.path, content=body, headers=headers)
            is_fault = answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
            is_meant = answer.status_code in (NOT_OFFERED, UNAVAILABLE)
            assert is_meant or not is_fault, (answer.status_code, answer.text, body)

        async with asyncio.TaskGroup() as group:
            for body in broken([call.body], RUNS // 8):
                group.create_task(send(body))
