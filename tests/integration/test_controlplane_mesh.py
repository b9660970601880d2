"""The mesh listener: real requests through a real Envoy that a real control plane configures."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from controlplane_rig import Caller, Rig, deployment, open_caller, open_rig

from mesh.errors import ModelNotFound, error_from_rpc


@pytest.fixture
async def rig(tmp_path: Path, consul_binary: Path, envoy_binary: Path) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path, consul_binary, envoy_binary) as opened:
        opened.start_envoy()
        opened.start_controlplane()
        yield opened


@pytest.fixture
async def caller(rig: Rig) -> AsyncIterator[Caller]:
    async with open_caller(rig.mesh) as opened:
        yield opened


async def test_a_model_reference_reaches_the_nodes_that_have_the_version(
    rig: Rig, caller: Caller
) -> None:
    await rig.deploy(deployment("echo", {1: 1}, {"champion": 2}))
    rig.start_node("one", "echo@1")
    rig.start_node("two", "echo@1", "echo@2")
    await rig.wait_healthy("echo@1", 2)
    await rig.wait_healthy("echo@2", 1)

    answers = {name: await caller.infer(name) for name in ("echo", "echo@2", "echo@champion")}
    assert answers["echo"].model_version == "1"
    assert answers["echo@2"].model_version == "2"
    assert answers["echo@champion"].model_name == "two"

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller.infer("nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert isinstance(error_from_rpc(caught.value), ModelNotFound)
