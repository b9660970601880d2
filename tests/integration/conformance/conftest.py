"""The protocol's lanes as its tests ask them: the node itself, the gateway, unmodified clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
import tritonclient.grpc.aio as triton
import tritonclient.http.aio as triton_http

from mesh.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.integration.oip_rig import Lanes, open_identity_model, open_lanes


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lanes() -> AsyncIterator[Lanes]:
    """Over `identity`, which takes any tensor."""
    async with open_lanes((open_identity_model(), "tensor", "identity")) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["node", "gateway"])
async def address(request: pytest.FixtureRequest, lanes: Lanes) -> str:
    """Each lane's address for gRPC, one after the other."""
    return lanes.grpc(request.param)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(address: str) -> AsyncIterator[triton.InferenceServerClient]:
    async with triton.InferenceServerClient(address) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stub(channel: grpc.aio.Channel) -> Any:
    return GRPCInferenceServiceStub(channel)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rest(lanes: Lanes) -> AsyncIterator[triton_http.InferenceServerClient]:
    async with triton_http.InferenceServerClient(lanes.http) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def http(lanes: Lanes) -> AsyncIterator[httpx.AsyncClient]:
    """REST as whoever writes the bytes himself."""
    async with httpx.AsyncClient(base_url=f"http://{lanes.http}", timeout=20) as opened:
        yield opened
