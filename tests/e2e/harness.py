"""A mesh started as a user starts it: `ringmesh up` as a process, on ports of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from mesh.local.run_state import MeshNotRunning, MeshRecord, read_record

T = TypeVar("T")
START_TIMEOUT_S = 240
STOP_TIMEOUT_S = 60


@dataclass(frozen=True)
class Mesh:
    """A running mesh, its addresses, and how to look into it."""

    process: subprocess.Popen[bytes]
    env: dict[str, str]
    log: Path

    @property
    def record(self) -> MeshRecord:
        return read_record(Path(self.env["RINGMESH_STATE_DIR"]))

    @property
    def edge(self) -> str:
        return self.record.edge

    def command(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mesh.cli.main", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def instances(self, service: str) -> list[dict]:
        """The passing ones; none while Consul itself is starting."""
        try:
            reply = httpx.get(f"http://{self.record.consul}/v1/health/service/{service}")
        except httpx.TransportError:
            return []
        # A Consul without a leader yet answers 500 in plain text.
        rows = reply.json() if reply.is_success else []
        return [row for row in rows if all(c["Status"] == "passing" for c in row["Checks"])]

    def serving_nodes(self, version: str) -> set[str]:
        return {
            row["Service"]["Meta"]["node"]
            for row in self.instances("inference")
            if version in row["Service"]["Tags"]
        }

    def node_pid(self, node: str) -> int:
        return next(
            record.pid for name, record in self.record.processes.items() if name.endswith(node)
        )


def processes_of(state_dir: Path) -> list[int]:
    """Every live process that was started with this state folder in its environment."""
    needle = f"RINGMESH_STATE_DIR={state_dir}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if needle in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(what: str, ask: Callable[[], T | None], timeout_s: float = 60) -> T:
    """Asks until the answer counts as true, and returns it; other processes tell nobody."""
    deadline = time.monotonic() + timeout_s
    while not (found := ask()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)
    return found


def wait_until_ready(mesh: Mesh) -> None:
    def is_recorded() -> bool:
        if mesh.process.poll() is not None:
            pytest.fail("the mesh ended while starting")
        with contextlib.suppress(MeshNotRunning):
            return bool(mesh.record)
        return False

    try:
        wait_for("a mesh that is ready", is_recorded, START_TIMEOUT_S)
    except BaseException:
        sys.stderr.write(mesh.log.read_text()[-4000:])
        raise


def start_mesh(state_dir: Path, ports: list[int], **extra: str) -> Mesh:
    edge, consul, admin = ports
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RINGMESH_", "OTEL_"))}
    clean.pop("CONSUL_HTTP_ADDR", None)
    env = clean | {
        "RINGMESH_STATE_DIR": str(state_dir),
        "RINGMESH_EDGE_PORT": str(edge),
        "RINGMESH_CONSUL_PORT": str(consul),
        "RINGMESH_ENVOY_ADMIN_PORT": str(admin),
        **extra,
    }
    if "RINGMESH_CACHE_DIR" in os.environ:
        env["RINGMESH_CACHE_DIR"] = os.environ["RINGMESH_CACHE_DIR"]
    log = state_dir.parent / f"{state_dir.name}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mesh.cli.main", "up"], env=env, stdout=out, stderr=out
        )
    mesh = Mesh(process, env, log)
    try:
        wait_until_ready(mesh)
    except BaseException:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
        raise
    return mesh


def stop_mesh(mesh: Mesh) -> int:
    mesh.process.send_signal(signal.SIGINT)
    return mesh.process.wait(STOP_TIMEOUT_S)
