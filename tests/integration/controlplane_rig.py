"""A real Consul, a real control plane and a real Envoy, each a process that a test may kill."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx

from mesh.catalog import Catalog
from mesh.controlplane.bootstrap import build_bootstrap
from mesh.deployment import DEPLOYMENTS_PREFIX, Deployment
from mesh.errors import Unavailable
from mesh.local.consul_agent import make_consul_config
from mesh.pb import inference_pb2, inference_pb2_grpc
from mesh.ports import free_ports

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
READY_S = 30.0


@dataclass
class Rig:
    folder: Path
    consul_binary: Path
    envoy_binary: Path
    catalog: Catalog
    consul: str
    controlplane: str
    admin: str
    edge: str
    mesh: str
    otlp: str | None = None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *argv: str | Path, **env: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                list(map(str, argv)),
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            )
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    async def stop(self, name: str) -> int:
        process = self.processes.pop(name)
        process.terminate()
        return await asyncio.to_thread(process.wait, 5)

    def start_controlplane(self, name: str = "controlplane", **env: str) -> None:
        otlp = {} if self.otlp is None else {"OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp}
        self.start(
            name,
            sys.executable,
            "-m",
            "mesh.controlplane",
            CONSUL_HTTP_ADDR=self.consul,
            RINGMESH_CONTROLPLANE_LISTEN=self.controlplane,
            RINGMESH_CONTROLPLANE_ID="test",
            RINGMESH_EDGE_PORT=self.edge.rpartition(":")[2],
            RINGMESH_MESH_ADDRESS=self.mesh,
            **otlp,
            **env,
        )

    def start_envoy(self) -> None:
        config = self.folder / "envoy.json"
        config.write_text(json.dumps(build_bootstrap("test", self.admin, self.controlplane)))
        self.start(
            "envoy",
            self.envoy_binary,
            "--disable-hot-restart",
            *("--concurrency", "1", "--log-level", "info", "--file-flush-interval-msec", "100"),
            *("--config-path", config),
        )

    def start_node(self, name: str, *tags: str) -> None:
        self.start(name, sys.executable, HERE / "echo_node.py", name, self.consul, *tags)

    async def deploy(self, deployment: Deployment) -> None:
        await self.catalog.put(DEPLOYMENTS_PREFIX + deployment.model, deployment.to_json())

    async def admin_json(self, path: str) -> Any:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"http://{self.admin}{path}")).json()

    async def stats(self, pattern: str) -> dict[str, int]:
        found = await self.admin_json(f"/stats?format=json&filter={pattern}")
        return {each["name"]: each["value"] for each in found["stats"] if "value" in each}

    async def healthy(self, cluster: str) -> int:
        for status in (await self.admin_json("/clusters?format=json"))["cluster_statuses"]:
            if status["name"] == cluster:
                hosts = status.get("host_statuses", [])
                return sum(_is_healthy(each["health_status"]) for each in hosts)
        return 0

    async def wait_healthy(self, cluster: str, count: int) -> None:
        await eventually(lambda: self.healthy(cluster), lambda found: found == count)


def _is_healthy(status: dict[str, Any]) -> bool:
    return status.get("eds_health_status") == "HEALTHY" and len(status) == 1


async def eventually(
    ask: Callable[[], Any], accept: Callable[[Any], bool], timeout_s: float = READY_S
) -> Any:
    """Polls until the answer is as wanted; a process that does not listen yet is no answer."""
    last: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    last = await ask()
                    if accept(last):
                        return last
                except (httpx.HTTPError, grpc.aio.AioRpcError, Unavailable) as error:
                    last = error
                await asyncio.sleep(0.03)
    except TimeoutError:
        raise AssertionError(f"never as wanted; the last answer was {last!r}") from None


@asynccontextmanager
async def open_rig(
    folder: Path, consul_binary: Path, envoy_binary: Path, otlp: str | None = None
) -> AsyncIterator[Rig]:
    ports = [f"127.0.0.1:{port}" for port in free_ports(7)]
    consul, server, serf, *rest = ports
    async with Catalog.open(consul) as catalog:
        rig = Rig(folder, consul_binary, envoy_binary, catalog, consul, *rest, otlp=otlp)
        try:
            _start_consul(rig, server, serf)
            await eventually(lambda: catalog.put("probe", b"1"), lambda _: True)
            yield rig
        finally:
            for name in list(rig.processes):
                rig.kill(name)


def _start_consul(rig: Rig, server: str, serf: str) -> None:
    @dataclass
    class Addresses:
        consul: str
        consul_server: str
        consul_serf: str

    addresses: Any = Addresses(rig.consul, server, serf)
    config = make_consul_config(rig.folder / "consul", addresses, (1, 8, 7))
    path = rig.folder / "consul.json"
    path.write_text(json.dumps(config))
    rig.start("consul", rig.consul_binary, "agent", f"-config-file={path}")


class Caller:
    """Calls a listener as the gateway or a client would."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._stub: Any = inference_pb2_grpc.GRPCInferenceServiceStub(channel)

    async def infer(
        self,
        model: str,
        delay_ms: int = 0,
        *,
        too_late: bool = False,
        timeout_s: float = 20.0,
        payload: bytes = b"",
        **headers: str,
    ) -> inference_pb2.ModelInferResponse:
        request = inference_pb2.ModelInferRequest(id="1", raw_input_contents=[payload])
        request.parameters["delay_ms"].int64_param = delay_ms
        request.parameters["too_late"].bool_param = too_late
        metadata = [("x-ringmesh-model", model)]
        metadata += [(key.replace("_", "-"), value) for key, value in headers.items()]
        answer: inference_pb2.ModelInferResponse = await self._stub.ModelInfer(
            request, metadata=metadata, timeout=timeout_s
        )
        return answer


@asynccontextmanager
async def open_caller(address: str) -> AsyncIterator[Caller]:
    async with grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.max_send_message_length", -1),
        ],
    ) as channel:
        # Envoy opens the listener only once it has the routes; nobody else has waited for that.
        async with asyncio.timeout(30):
            await channel.channel_ready()
        yield Caller(channel)
