"""An engine dies under a stream: the whole way from the engine's thread through Envoy to a client.

Real are Consul, the control plane, Envoy, the gateway and the nodes with their schedulers; the
engines compute toys, so that each token depends on all before it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from mesh.catalog import Catalog
from services.gateway.settings import GatewaySettings
from services.inference.backends.backend import BackendFailed, BackendLost
from tests.integration import controlplane_rig
from tests.integration.controlplane_rig import open_caller
from tests.integration.gateway_rig import (
    make_deployment,
    make_telemetry,
    make_watch,
    open_gateway,
)
from tests.integration.toy_node import open_toy_node
from tests.unit.llm.toy_backend import ToyBackend

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS = 100


@dataclass
class Rig:
    mesh: controlplane_rig.Rig
    http: httpx.AsyncClient
    stack: AsyncExitStack

    async def serve(self, model: str, *nodes: str) -> dict[str, ToyBackend]:
        """Has these nodes serve a model of that name, until the test is over."""
        deployment = make_deployment(model, "gguf")
        await self.mesh.deploy(deployment)
        # The next test must not take these nodes for its own.
        self.stack.push_async_callback(self.mesh.wait_healthy, f"{model}@1", 0)
        backends = {
            name: await self.stack.enter_async_context(
                open_toy_node(name, self.mesh.catalog, deployment.versions[1])
            )
            for name in nodes
        }
        await self.mesh.wait_healthy(f"{model}@1", len(nodes))
        return backends


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def mesh(
    tmp_path_factory: pytest.TempPathFactory, consul_binary: Path, envoy_binary: Path
) -> AsyncIterator[controlplane_rig.Rig]:
    folder = tmp_path_factory.mktemp("mesh")
    async with controlplane_rig.open_rig(folder, consul_binary, envoy_binary) as opened:
        opened.start_envoy()
        opened.start_controlplane()
        async with open_caller(opened.mesh):
            yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def rig(mesh: controlplane_rig.Rig) -> AsyncIterator[Rig]:
    watch = make_watch(
        make_deployment("pair", "gguf"),
        make_deployment("single", "gguf"),
        ready=frozenset({"pair@1", "single@1"}),
    )
    settings = GatewaySettings(mesh_address=mesh.mesh, resume_attempts=2)
    async with AsyncExitStack() as stack:
        opened = open_gateway(watch, settings, make_telemetry())
        _, address = await stack.enter_async_context(opened)
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{address}", timeout=60)
        )
        yield Rig(mesh, http, stack)


def body(model: str, **more: object) -> dict[str, object]:
    asked = {"model": model, "prompt": "12", "max_tokens": TOKENS, "seed": 5, "ignore_eos": True}
    return asked | more


async def whole(rig: Rig, model: str) -> str:
    answer = await rig.http.post("/v1/completions", json=body(model))
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


async def stream(rig: Rig, model: str, backends: dict[str, ToyBackend], error: Exception) -> list:
    """The events of a stream whose engine dies after some tokens."""
    for backend in backends.values():
        backend.hold(after=9)
    asked = rig.http.stream("POST", "/v1/completions", json=body(model, stream=True))
    async with asked as answer:
        lines = answer.aiter_lines()
        found = [await anext(lines)]
        died = backends[answer.headers["x-ringmesh-node"]]
        died.error = error
        died.break_down()
        for backend in backends.values():
            backend.go_on()
        found += [line async for line in lines]
    data = [line.removeprefix("data: ") for line in found if line]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def text_of(events: list) -> str:
    chunks = [each for each in events if each != "[DONE]" and "choices" in each]
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


async def untagged(catalog: Catalog, reference: str, left: int) -> None:
    async with asyncio.timeout(60):
        async for instances in catalog.watch_instances("inference"):
            if sum(reference in each.tags for each in instances) == left:
                return


@pytest.mark.parametrize("error", [BackendFailed("odd"), MemoryError(), BackendLost("gone")])
async def test_a_stream_alone_on_an_engine_that_dies_goes_on_elsewhere(
    rig: Rig, error: Exception
) -> None:
    backends = await rig.serve("pair", "a", "b")
    expected = await whole(rig, "pair")
    events = await stream(rig, "pair", backends, error)
    assert events[-1] == "[DONE]"
    assert text_of(events) == expected
    await untagged(rig.mesh.catalog, "pair@1", left=1)
    assert await whole(rig, "pair") == expected


async def test_where_nobody_else_has_the_version_the_stream_ends_unavailable_with_the_reason(
    rig: Rig,
) -> None:
    backends = await rig.serve("single", "c")
    expected = await whole(rig, "single")
    events = await stream(rig, "single", backends, BackendFailed("odd"))
    *chunks, last = events
    assert last["error"]["code"] == "unavailable"
    assert "3 runs in a row failed: odd" in last["error"]["message"]
    assert expected.startswith(text_of(chunks))
    assert "[DONE]" not in events
