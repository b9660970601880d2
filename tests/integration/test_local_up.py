"""`ringmesh up` as a process: how it starts, is refused, is killed, comes back and stops."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from mesh.local.address import choose_addresses
from mesh.local.child import Child, Stage
from mesh.local.consul_agent import prepare_consul
from mesh.local.consul_view import SERVICES, ConsulView
from mesh.local.probe import http_probe
from mesh.local.run_state import MeshRecord, read_record
from mesh.local.settings import LocalSettings
from mesh.local.supervisor import supervise
from mesh.local.toolchain import find_consul

START_S = 60.0
STOP_S = 30.0


def make_env(state_dir: Path, **extra: str) -> dict[str, str]:
    ports = ("RINGMESH_EDGE_PORT", "RINGMESH_CONSUL_PORT", "RINGMESH_ENVOY_ADMIN_PORT")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "CONSUL_HTTP"))}
    own = {"RINGMESH_STATE_DIR": str(state_dir), "RINGMESH_NODES": "1", "RINGMESH_DEMO": "false"}
    return {**inherited, **dict.fromkeys(ports, "0"), **own, **extra}


async def start(env: dict[str, str], *arguments: str, **streams: Any) -> Process:
    command = (sys.executable, "-m", "mesh.cli.main", *arguments)
    return await asyncio.create_subprocess_exec(*command, env=env, **streams)


async def up(env: dict[str, str]) -> tuple[Process, dict[str, Any]]:
    """A mesh that is ready, with the event that said so."""
    state_dir = Path(env["RINGMESH_STATE_DIR"])
    complaints = state_dir.with_name(f"{state_dir.name}.complaints")
    with complaints.open("ab") as stderr:
        process = await start(env, "up", "--json", stdout=PIPE, stderr=stderr)
    assert process.stdout is not None
    async with asyncio.timeout(START_S):
        async for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "up":
                return process, event
    pytest.fail(f"it ended while starting: {complaints.read_text()}")


async def stop(process: Process, number: signal.Signals = signal.SIGTERM) -> int:
    process.send_signal(number)
    await asyncio.wait_for(process.communicate(), STOP_S)
    assert process.returncode is not None
    return process.returncode


async def await_condition(holds: Callable[[], object], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.05)


def list_processes(state_dir: Path) -> list[str]:
    """Every process of the mesh in this folder, however it was started."""
    needle = f"RINGMESH_STATE_DIR={state_dir}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and needle in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().decode())
    return found


async def answers(address: str) -> bool:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection(*address.split(":"))
        writer.close()
        return True
    return False


async def test_a_mesh_starts_says_where_it_is_and_leaves_nothing(tmp_path: Path) -> None:
    process, event = await up(make_env(tmp_path))
    record = read_record(tmp_path)
    assert (event["pid"], event["edge"]) == (process.pid, record.edge)
    assert set(record.processes) == {
        *("consul", "tracesink", "config", "registry", "controlplane"),
        *("node-1", "envoy", "gateway"),
    }
    async with httpx.AsyncClient() as client:
        for address in (f"{record.edge}/v2/health/live", f"{record.consul}/ui/"):
            assert (await client.get(f"http://{address}")).status_code == httpx.codes.OK

    second = await start(make_env(tmp_path), "up", stdout=PIPE, stderr=PIPE)
    _, complaint = await second.communicate()
    assert second.returncode == 1
    assert f"already running in {tmp_path} (pid {process.pid})" in complaint.decode()

    assert await stop(process, signal.SIGINT) == 0
    assert list_processes(tmp_path) == []
    assert not (tmp_path / "mesh.json").exists()
    for address in (record.edge, record.consul, record.envoy_admin, record.controlplane):
        assert not await answers(address)


async def test_a_killed_mesh_leaves_nothing_that_hinders_the_next(tmp_path: Path) -> None:
    env = make_env(tmp_path)
    process, _ = await up(env)
    process.kill()
    await process.communicate()
    await await_condition(lambda: list_processes(tmp_path) == [])

    again, event = await up(env)
    assert event["pid"] == again.pid
    down = await start(env, "down", "--json", stdout=PIPE)
    printed, _ = await down.communicate()
    assert json.loads(printed) == {"stopped": again.pid}
    await asyncio.wait_for(again.communicate(), STOP_S)
    assert again.returncode == 0
    assert list_processes(tmp_path) == []


async def test_a_crashed_process_is_replaced_and_recorded(tmp_path: Path) -> None:
    process, event = await up(make_env(tmp_path))
    before = event["processes"]["registry"]["pid"]
    os.kill(before, signal.SIGKILL)
    lines = process.stdout
    assert lines is not None
    async with asyncio.timeout(START_S):
        events = [json.loads(await lines.readline()) for _ in range(3)]
    assert [(each["event"], each["name"]) for each in events] == [
        ("ended", "registry"),
        ("started", "registry"),
        ("ready", "registry"),
    ]
    record: MeshRecord = read_record(tmp_path)
    assert record.processes["registry"].pid not in (before, None)
    assert await stop(process) == 0


async def test_a_consul_that_runs_already_is_used_and_left_clean(tmp_path: Path) -> None:
    addresses = choose_addresses(LocalSettings(edge_port=0, consul_port=0, envoy_admin_port=0))
    consul = Child(
        name="consul",
        argv=prepare_consul(find_consul(), tmp_path, addresses),
        env=dict(os.environ),
        stage=Stage.DISCOVERY,
        probe=http_probe(f"http://{addresses.consul}/v1/agent/self"),
    )
    async with supervise([consul], tmp_path / "logs", lambda _: None) as supervision:
        await supervision.wait_ready(timeout_s=START_S)
        process, event = await up(make_env(tmp_path / "mesh", CONSUL_HTTP_ADDR=addresses.consul))
        assert event["consul"] == addresses.consul
        assert "consul" not in event["processes"]
        with ConsulView(addresses.consul) as view:
            assert {each.service for each in view.instances()} == set(SERVICES)
            assert await stop(process) == 0
            assert view.instances() == []


async def test_a_consul_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    env = make_env(tmp_path, CONSUL_HTTP_ADDR="127.0.0.1:9")
    process = await start(env, "up", stdout=PIPE, stderr=PIPE)
    _, complaint = await asyncio.wait_for(process.communicate(), START_S)
    assert process.returncode == 1
    assert "CONSUL_HTTP_ADDR is 127.0.0.1:9, where no Consul answers" in complaint.decode()
    assert "Traceback" not in complaint.decode()


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Anybody's collector: it notes which services send it spans."""

    def __init__(self) -> None:
        self.services: set[str] = set()
        self.told = asyncio.Event()

    async def Export(self, request, context):  # noqa: N802  # the name in the .proto
        del context
        for spans in request.resource_spans:
            names = (a.value.string_value for a in spans.resource.attributes)
            self.services |= {name for name in names if name}
        self.told.set()
        return trace_service_pb2.ExportTraceServiceResponse()


async def test_spans_go_to_the_collector_that_the_environment_names(tmp_path: Path) -> None:
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    env = make_env(tmp_path / "state", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}")
    mesh, event = await up(env)
    try:
        async with asyncio.timeout(START_S), httpx.AsyncClient() as client:
            answer = await client.get(f"http://{event['edge']}/v2")
            assert answer.headers["x-ringmesh-trace-id"]
            while not collector.services >= {"envoy-edge", "gateway"}:
                collector.told.clear()
                await collector.told.wait()
    finally:
        assert await stop(mesh) == 0
        await server.stop(None)
    assert not (tmp_path / "state" / "traces").exists()
