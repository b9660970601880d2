"""One mesh for the whole suite.

What must hold after it is checked when it stops: exit code 0, no process, no open port.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from mesh.local.demo_models import DemoModels
from mesh.ports import free_ports
from tests.e2e.harness import Mesh, is_open, processes_of, start_mesh, stop_mesh


@pytest.fixture(scope="session")
def mesh(demo_models: DemoModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    state_dir = tmp_path_factory.mktemp("mesh") / "state"
    ports = free_ports(3)
    started = start_mesh(state_dir, ports)
    yield started
    code = stop_mesh(started)
    assert code == 0, started.log.read_text()[-4000:]
    assert processes_of(state_dir) == []
    assert not any(is_open(port) for port in ports)


@pytest.fixture
def http(mesh: Mesh) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{mesh.edge}", timeout=60) as client:
        yield client
