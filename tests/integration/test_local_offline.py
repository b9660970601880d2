"""A first start without a network: one sentence that says what is missing and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NO_NETWORK = ("unshare", "--net", "--map-root-user")
"""A network namespace of its own, in which there is nothing but a loopback that is down."""

CONSUL = "Consul is missing, and fetching Debian's package over the network failed"
MODELS = "could not be downloaded"


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NO_NETWORK, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="this machine lets nobody make a network namespace")
@pytest.mark.parametrize("missing", [CONSUL, MODELS])
def test_a_start_without_a_network_says_what_to_do(
    missing: str, consul_binary: Path, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "RINGMESH_STATE_DIR": str(tmp_path / "state"),
        "PATH": "/usr/bin:/bin",
        "PIP_RETRIES": "0",
    }
    environment.pop("CONSUL_BIN", None)
    if missing == MODELS:
        environment["CONSUL_BIN"] = str(consul_binary)
    # The ports are picked free in there; none is open to the rest of the machine.
    for port in ("EDGE", "CONSUL", "ENVOY_ADMIN"):
        environment[f"RINGMESH_{port}_PORT"] = "0"
    command = [*NO_NETWORK, sys.executable, "-m", "mesh.cli.main", "up"]
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    said = " ".join((ended.stdout + ended.stderr).split())
    assert ended.returncode == 1
    assert missing in said
    assert "connect and try again" in said
    assert "Traceback" not in said
