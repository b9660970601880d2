"""The mesh listener: real requests through a real Envoy that a real control plane configures."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from mesh.deployment import DEPLOYMENTS_PREFIX
from mesh.errors import (
    DeadlineTooShort,
    ModelNotFound,
    ModelNotReady,
    RingmeshError,
    error_from_rpc,
)
from mesh.pb import node_pb2, node_pb2_grpc
from tests.integration.controlplane_rig import (
    Caller,
    Rig,
    eventually,
    open_caller,
    open_rig,
)
from tests.unit.controlplane.documents import deployment

pytestmark = pytest.mark.asyncio(loop_scope="module")

SESSIONS = [f"session-{number}" for number in range(40)]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig(
    tmp_path_factory: pytest.TempPathFactory, consul_binary: Path, envoy_binary: Path
) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("mesh")
    async with open_rig(folder, consul_binary, envoy_binary) as opened:
        opened.start_envoy()
        opened.start_controlplane()
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def caller(rig: Rig) -> AsyncIterator[Caller]:
    async with open_caller(rig.mesh) as opened:
        yield opened


@asynccontextmanager
async def nodes(rig: Rig, **tags: tuple[str, ...]) -> AsyncIterator[None]:
    for name, held in tags.items():
        rig.start_node(name, *held)
    try:
        for tag in {tag for held in tags.values() for tag in held}:
            await rig.wait_healthy(tag, sum(tag in held for held in tags.values()))
        yield
    finally:
        for name in tags.keys() & rig.processes.keys():
            rig.kill(name)


async def refusal(call: Any) -> RingmeshError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value)


async def where(caller: Caller, model: str) -> dict[str, str]:
    """The node that each session meets."""
    return {
        session: (await caller.infer(model, x_ringmesh_affinity=session)).model_name
        for session in SESSIONS
    }


async def test_a_reference_reaches_the_nodes_that_have_the_version(
    rig: Rig, caller: Caller
) -> None:
    await rig.deploy(deployment("names", {1: 1}, {"champion": 2}))
    async with nodes(rig, one=("names@1",), two=("names@1", "names@2")):
        for name, version in {"names": "1", "names@2": "2", "names@champion": "2"}.items():
            answer = await caller.infer(name, x_ringmesh_version="99")
            assert answer.model_version == version
            assert answer.model_name == "two" or version == "1"
        assert isinstance(await refusal(caller.infer("names@3")), ModelNotFound)
        assert isinstance(await refusal(caller.infer("nothing")), ModelNotFound)


async def test_a_version_that_no_node_has_ready_is_unavailable_with_a_reason(
    rig: Rig, caller: Caller
) -> None:
    await rig.deploy(deployment("empty", {1: 1}))
    await rig.deploy(deployment("other", {1: 1}))
    async with nodes(rig, one=("other@1",)):
        assert isinstance(await refusal(caller.infer("empty")), ModelNotReady)
    await rig.catalog.delete(DEPLOYMENTS_PREFIX + "empty")


async def test_a_session_keeps_its_node_and_a_dead_node_moves_only_its_own(
    rig: Rig, caller: Caller
) -> None:
    await rig.deploy(deployment("sticky", {1: 1}))
    async with nodes(rig, a=("sticky@1",), b=("sticky@1",), c=("sticky@1",)):
        before = await where(caller, "sticky")
        assert before == await where(caller, "sticky")
        assert set(before.values()) == {"a", "b", "c"}
        rig.kill("b")
        await rig.wait_healthy("sticky@1", 2)
        after = await where(caller, "sticky")
        moved = {session for session in SESSIONS if before[session] != after[session]}
        assert moved == {session for session in SESSIONS if before[session] == "b"}


async def test_a_session_keeps_its_version_while_traffic_is_split(rig: Rig, caller: Caller) -> None:
    await rig.deploy(deployment("split", {1: 70, 2: 30}))
    async with nodes(rig, one=("split@1", "split@2"), two=("split@1", "split@2")):
        met: dict[str, set[str]] = {session: set() for session in SESSIONS}
        for session in SESSIONS * 3:
            answer = await caller.infer("split", x_ringmesh_affinity=session)
            met[session].add(answer.model_version)
        assert all(len(versions) == 1 for versions in met.values())
        assert {version for versions in met.values() for version in versions} == {"1", "2"}
        unkeyed = Counter([(await caller.infer("split")).model_version for _ in range(200)])
        assert 30 <= unkeyed["2"] <= 95


async def test_killing_a_node_under_load_fails_nothing(rig: Rig, caller: Caller) -> None:
    await rig.deploy(deployment("load", {1: 1}))
    async with nodes(rig, d=("load@1",), e=("load@1",)):
        served: Counter[str] = Counter()
        stop = asyncio.Event()

        async def work(session: str) -> None:
            while not stop.is_set():
                answer = await caller.infer("load", 20, x_ringmesh_affinity=session)
                served[answer.model_name] += 1

        async with asyncio.TaskGroup() as tasks:
            for session in SESSIONS[:16]:
                tasks.create_task(work(session))
            while min(served["d"], served["e"]) < 100:
                await asyncio.sleep(0.02)
            rig.kill("d")
            until = served["e"] + 800
            while served["e"] < until:
                await asyncio.sleep(0.02)
            stop.set()


async def test_streams_flow_and_start_again_before_their_first_byte(
    rig: Rig, caller: Caller
) -> None:
    await rig.deploy(deployment("talk", {1: 1}))
    async with nodes(rig, f=("talk@1",), g=("talk@1",)):
        stub: Any = node_pb2_grpc.NodeStub(caller.channel)

        async def talk(session: str) -> str:
            metadata = [("x-ringmesh-model", "talk"), ("x-ringmesh-affinity", session)]
            request = node_pb2.GenerateRequest(max_tokens=5)
            events = [event async for event in stub.Generate(request, metadata=metadata)]
            assert events[-1].HasField("finished")
            return events[0].started.node

        assert {await talk(session) for session in SESSIONS[:10]} == {"f", "g"}
        rig.kill("f")
        assert {await talk(session) for session in SESSIONS[:10]} == {"g"}


async def test_callers_in_a_hurry_do_not_eject_healthy_nodes(rig: Rig, caller: Caller) -> None:
    await rig.deploy(deployment("hurry", {1: 1}))
    async with nodes(rig, h=("hurry@1",), i=("hurry@1",)):
        for _ in range(20):
            error = await refusal(caller.infer("hurry", too_late=True))
            assert isinstance(error, DeadlineTooShort)
            await refusal(caller.infer("hurry", 500, timeout_s=0.02))
        ejected = await rig.stats("hurry@1.outlier_detection.ejections_enforced_total")
        assert set(ejected.values()) == {0}


async def test_a_large_request_is_repeated_elsewhere_when_its_node_dies(
    rig: Rig, caller: Caller
) -> None:
    await rig.deploy(deployment("large", {1: 1}))
    async with nodes(rig, k=("large@1",), l=("large@1",)):
        payload = bytes(20_000_000)
        calls = [
            asyncio.create_task(
                caller.infer("large", 2500, payload=payload, x_ringmesh_affinity=session)
            )
            for session in SESSIONS[:6]
        ]

        async def received() -> list[int]:
            active = await rig.stats("cluster.large@1.upstream_cx_tx_bytes_total")
            return list(active.values())

        await eventually(received, lambda found: found[0] > 6 * len(payload))
        rig.kill("k")
        await asyncio.gather(*calls)
        [repeated] = (await rig.stats("cluster.large@1.upstream_rq_retry_success")).values()
        assert repeated > 0


async def test_a_model_that_goes_lets_its_last_request_finish(rig: Rig, caller: Caller) -> None:
    await rig.deploy(deployment("brief", {1: 1}))
    async with nodes(rig, j=("brief@1",)):
        last = asyncio.create_task(caller.infer("brief", 1500))
        await asyncio.sleep(0.3)
        await rig.catalog.delete(DEPLOYMENTS_PREFIX + "brief")

        async def gone() -> bool:
            statuses = (await rig.admin_json("/clusters?format=json"))["cluster_statuses"]
            return all(each["name"] != "brief@1" for each in statuses)

        await eventually(gone, bool)
        assert not last.done()
        assert (await last).model_name == "j"
        assert isinstance(await refusal(caller.infer("brief")), ModelNotFound)
