"""The processes of a mesh: restarted when they crash, replaceable, gone at the end."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from mesh.local.demo_models import DemoModels
from mesh.ports import free_ports
from tests.e2e.harness import Mesh, is_open, processes_of, start_mesh, stop_mesh, wait_for

CHAT = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 4,
    "temperature": 0,
}


def serves(http: httpx.Client) -> bool:
    return http.post("/v1/chat/completions", json=CHAT).status_code == 200


@pytest.mark.parametrize("name", ["controlplane", "registry", "config", "consul"])
def test_serving_goes_on_without(mesh: Mesh, http: httpx.Client, name: str) -> None:
    pid = mesh.record.processes[name].pid
    os.kill(pid, signal.SIGKILL)
    for _ in range(10):
        assert serves(http)
    wait_for(f"{name} restarted", lambda: mesh.record.processes[name].pid != pid)
    for service in ("gateway", "inference", "registry", "config", "controlplane"):
        wait_for(f"{service} in Consul", lambda s=service: bool(mesh.instances(s)))
    wait_for("every version", lambda: len(mesh.serving_nodes("smollm2@1")) == 2)
    assert serves(http)
    assert name in mesh.log.read_text()


@pytest.mark.parametrize("name", ["gateway", "envoy"])
def test_the_front_comes_back(mesh: Mesh, http: httpx.Client, name: str) -> None:
    pid = mesh.record.processes[name].pid
    os.kill(pid, signal.SIGKILL)
    wait_for(f"{name} restarted", lambda: mesh.record.processes[name].pid != pid)

    def answers() -> bool:
        try:
            return serves(http)
        except httpx.TransportError:
            return False

    wait_for("an answer", answers)


def test_a_second_start_is_quick_and_remembers(
    demo_models: DemoModels, tmp_path: Path, mesh: Mesh
) -> None:
    """Beside the suite's own mesh: two run side by side on other ports."""
    state, ports = tmp_path / "second", free_ports(3)
    first = start_mesh(state, ports, RINGMESH_NODES="1")
    assert stop_mesh(first) == 0
    assert processes_of(state) == []
    again = start_mesh(state, ports, RINGMESH_NODES="1")
    try:
        edge = f"http://{again.edge}"
        assert httpx.post(f"{edge}/v1/chat/completions", json=CHAT, timeout=30).status_code == 200
        assert [m["id"] for m in httpx.get(f"{edge}/v1/models").json()["data"]]
    finally:
        assert stop_mesh(again) == 0
    assert processes_of(state) == []
    assert not any(is_open(port) for port in ports)


def test_a_taken_port_is_one_sentence(mesh: Mesh, tmp_path: Path) -> None:
    taken = mesh.record.edge.rpartition(":")[2]
    env = {"RINGMESH_EDGE_PORT": taken, "RINGMESH_STATE_DIR": str(tmp_path / "third")}
    other = Mesh(mesh.process, mesh.env | env, mesh.log)
    result = other.command("up")
    assert result.returncode != 0
    assert taken in result.stderr
    assert "RINGMESH_EDGE_PORT" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_second_mesh_in_the_same_folder_is_refused(mesh: Mesh) -> None:
    result = mesh.command("up")
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert str(mesh.record.pid) in result.stderr
