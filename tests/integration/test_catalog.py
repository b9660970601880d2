"""The catalog against a real Consul: registration, watches, check-and-set, locks, loss."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from mesh.catalog import Catalog, Instance
from mesh.errors import Unavailable
from mesh.pb import node_pb2_grpc
from mesh.ports import free_ports
from mesh.server import ServiceBinding, serve
from mesh.telemetry import open_telemetry

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def ports() -> list[int]:
    return free_ports(4)


@pytest.fixture
def start_consul(consul_binary: Path, ports: list[int], tmp_path: Path) -> Iterator[Start]:
    http, lan, wan, server = ports
    config = {
        "server": True,
        "bootstrap": True,
        "bind_addr": "127.0.0.1",
        "data_dir": str(tmp_path / "consul"),
        "performance": {"raft_multiplier": 1},
        "disable_update_check": True,
        "ports": {
            "http": http, "serf_lan": lan, "serf_wan": wan, "server": server,
            "dns": -1, "grpc": -1,
        },
    }  # fmt: skip
    (tmp_path / "consul.json").write_text(json.dumps(config))
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "consul.log").open("ab") as log:
            process = subprocess.Popen(
                [consul_binary, "agent", "-config-file", tmp_path / "consul.json"],
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


async def ready(catalog: Catalog) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await catalog.put("probe", b"1")
            except Unavailable:
                await asyncio.sleep(0.1)
            else:
                return


@pytest.fixture
async def catalog(start_consul: Start, ports: list[int]) -> AsyncIterator[Catalog]:
    start_consul()
    async with Catalog.open(f"127.0.0.1:{ports[0]}") as opened:
        await ready(opened)
        yield opened


@pytest.fixture
async def listening() -> AsyncIterator[int]:
    """A port that answers gRPC health checks."""
    with open_telemetry("t", "t-1", otlp_endpoint=None) as telemetry:
        binding = ServiceBinding(
            "ringmesh.node.v1.Node",
            node_pb2_grpc.add_NodeServicer_to_server,
            node_pb2_grpc.NodeServicer(),
        )
        async with serve(
            listen="127.0.0.1:0", services=[binding], telemetry=telemetry, drain_timeout_s=0
        ) as server:
            yield server.port


def instance(port: int, *tags: str, name: str = "inference-a") -> Instance:
    return Instance(name, "inference", "127.0.0.1", port, frozenset(tags), {"node": "a"})


async def test_a_registration_is_seen_changed_and_gone(catalog: Catalog, listening: int) -> None:
    async with asyncio.timeout(20):
        watch = catalog.watch_instances("inference")
        assert await anext(watch) == ()
        async with catalog.registered(instance(listening)) as registration:
            (seen,) = await anext(watch)
            assert (seen.port, seen.meta["node"]) == (listening, "a")
            await registration.update_tags(frozenset({"minilm@1"}))
            (seen,) = await anext(watch)
            assert seen.tags == {"minilm@1"}
        assert await anext(watch) == ()


async def test_an_instance_that_stops_answering_is_no_longer_passing(
    catalog: Catalog, ports: list[int]
) -> None:
    dead = free_ports(1)[0]
    async with asyncio.timeout(20):
        watch = catalog.watch_instances("inference")
        await anext(watch)
        async with catalog.registered(instance(dead)):
            assert len(await anext(watch)) == 1
            assert await anext(watch) == ()


async def test_check_and_set_refuses_an_old_index(catalog: Catalog) -> None:
    assert await catalog.put_if("k", b"one", 0)
    assert not await catalog.put_if("k", b"two", 0)
    entry = await catalog.get("k")
    assert entry is not None
    assert await catalog.put_if("k", b"three", entry.modify_index)
    assert not await catalog.put_if("k", b"four", entry.modify_index)


async def test_watches_of_keys_see_creation_change_and_deletion(catalog: Catalog) -> None:
    async with asyncio.timeout(20):
        key, prefix = catalog.watch_key("p/a"), catalog.watch_prefix("p/")
        assert await anext(key) is None
        assert await anext(prefix) == {}
        await catalog.put("p/a", b"1")
        entry = await anext(key)
        assert entry is not None
        assert entry.value == b"1"
        assert {k: e.value for k, e in (await anext(prefix)).items()} == {"p/a": b"1"}
        await catalog.delete("p/a")
        assert await anext(key) is None
        assert await anext(prefix) == {}


async def test_a_watch_keeps_quiet_while_consul_is_away_and_goes_on_after(
    start_consul: Start, ports: list[int], listening: int
) -> None:
    first = start_consul()
    async with asyncio.timeout(60), Catalog.open(f"127.0.0.1:{ports[0]}") as catalog:
        await ready(catalog)
        async with catalog.registered(instance(listening, "minilm@1")) as registration:
            watch = catalog.watch_instances("inference")
            assert len(await anext(watch)) == 1
            first.kill()
            first.wait()
            with pytest.raises(Unavailable):
                await catalog.get("k")
            await registration.update_tags(frozenset({"minilm@2"}))  # no error: asserted later
            start_consul()
            async for instances in watch:
                if [i.tags for i in instances] == [{"minilm@2"}]:
                    break


async def test_a_lock_has_one_holder_and_passes_on(catalog: Catalog) -> None:
    async with asyncio.timeout(40):
        order: list[str] = []

        async def hold(name: str, release: asyncio.Event) -> None:
            async with catalog.lock("leader", name) as held:
                order.append(name)
                await release.wait()
                assert not held.lost.is_set()

        first, second = asyncio.Event(), asyncio.Event()
        a = asyncio.create_task(hold("a", first))
        while not order:
            await asyncio.sleep(0.05)
        b = asyncio.create_task(hold("b", second))
        entry = await catalog.get("leader")
        assert entry is not None
        assert entry.value == b"a"
        assert order == ["a"]
        first.set()
        await a
        while len(order) == 1:
            await asyncio.sleep(0.05)
        second.set()
        await b
        assert order == ["a", "b"]


async def test_a_lock_is_reported_lost_when_its_session_is_gone(catalog: Catalog) -> None:
    async with asyncio.timeout(40), catalog.lock("leader", "a") as held:
        client = catalog._client
        _, sessions = await client.session.list()
        for session in sessions:
            await client.session.destroy(session["ID"])
        await held.lost.wait()
