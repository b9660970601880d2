"""The Consul of a local mesh: one server that keeps its data and talks to nobody else."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from mesh.local.address import HOST, Addresses
from mesh.local.command import run_command


def prepare_consul(binary: Path, state_dir: Path, addresses: Addresses) -> tuple[str, ...]:
    """Writes the agent's configuration; returns its command line."""
    data_dir = state_dir / "consul"
    # What a killed mesh had registered would stay as failing instances for a minute.
    for stale in ("services", "checks"):
        shutil.rmtree(data_dir / stale, ignore_errors=True)
    data_dir.mkdir(parents=True, exist_ok=True)
    config = state_dir / "consul.json"
    settings = make_consul_config(
        data_dir, addresses, read_version(run_command([str(binary), "version"]))
    )
    config.write_text(json.dumps(settings, indent=2) + "\n")
    return (str(binary), "agent", "-ui", f"-config-file={config}")


def make_consul_config(
    data_dir: Path, addresses: Addresses, version: tuple[int, ...]
) -> dict[str, Any]:
    """A lone server on loopback that elects itself fast, and ends at SIGTERM without farewells."""
    ports = {"http": _port(addresses.consul), "server": _port(addresses.consul_server)}
    ports |= {"serf_lan": _port(addresses.consul_serf)}
    ports |= dict.fromkeys(("serf_wan", "dns", "https", "grpc"), -1)
    if version >= (1, 14):
        ports["grpc_tls"] = -1
    return {
        "node_name": "local",
        "server": True,
        "bootstrap_expect": 1,
        "bind_addr": HOST,
        "client_addr": HOST,
        "data_dir": str(data_dir),
        "ports": ports,
        "performance": {"raft_multiplier": 1, "leave_drain_time": "0s"},
        "leave_on_terminate": False,
        "connect": {"enabled": False},
        "disable_update_check": True,
        "disable_keyring_file": True,
        # Every process of the mesh holds several blocking queries from the same address.
        "limits": {"http_max_conns_per_client": 4096},
        "log_level": "warn",
    }


def read_version(output: str) -> tuple[int, ...]:
    """The numbers in what `consul version` printed; (0,) if there are none."""
    found = re.search(r"v(\d+)\.(\d+)\.(\d+)", output)
    return tuple(int(part) for part in found.groups()) if found else (0,)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
