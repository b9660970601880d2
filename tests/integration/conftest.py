"""The rigs that several test modules stand on; what a module changes about one, it opens itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio

from mesh.catalog import Catalog
from mesh.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.integration import gateway_rig
from tests.integration.consul_rig import ConsulRig, open_consul


@pytest.fixture
async def consul(consul_binary: Path, tmp_path: Path) -> AsyncIterator[ConsulRig]:
    """A Consul that is new for each test."""
    async with open_consul(consul_binary, tmp_path) as rig:
        yield rig


@pytest.fixture
async def catalog(consul: ConsulRig) -> AsyncIterator[Catalog]:
    async with Catalog.open(consul.address) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_consul(
    consul_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ConsulRig]:
    """One Consul for the module, where each test takes names of its own or leaves none behind."""
    async with open_consul(consul_binary, tmp_path_factory.mktemp("consul")) as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_catalog(shared_consul: ConsulRig) -> AsyncIterator[Catalog]:
    async with Catalog.open(shared_consul.address) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_gateway() -> AsyncIterator[gateway_rig.Rig]:
    async with gateway_rig.open_rig() as opened:
        yield opened


@pytest.fixture
def gateway(shared_gateway: gateway_rig.Rig) -> gateway_rig.Rig:
    """A gateway over a node that answers by script, as it was when it was opened."""
    shared_gateway.reset()
    return shared_gateway


@pytest_asyncio.fixture(loop_scope="module")
async def http(gateway: gateway_rig.Rig) -> AsyncIterator[httpx.AsyncClient]:
    """Plain HTTP to that gateway."""
    async with httpx.AsyncClient(base_url=f"http://{gateway.http}", timeout=20) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def stub(gateway: gateway_rig.Rig) -> AsyncIterator[Any]:
    """Plain gRPC to that gateway."""
    async with grpc.aio.insecure_channel(gateway.grpc) as channel:
        yield GRPCInferenceServiceStub(channel)
