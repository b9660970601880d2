"""What the processes of a mesh hold at a moment: what must not grow with the number of requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.e2e.harness import Mesh

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{[^}]*\})? ([0-9.e+-]+)$", re.MULTILINE)
_PAGE_KB = 4


@dataclass(frozen=True, slots=True)
class Footprint:
    """One process; memory in kilobytes."""

    memory_kb: int
    files: int
    threads: int


def footprints(mesh: Mesh) -> Mapping[str, Footprint]:
    """Every process of the mesh, by name."""
    return {name: _of(record.pid) for name, record in mesh.record.processes.items()}


def _of(pid: int) -> Footprint:
    process = Path(f"/proc/{pid}")
    resident = int((process / "statm").read_text().split()[1]) * _PAGE_KB
    files, threads = (len(list((process / each).iterdir())) for each in ("fd", "task"))
    return Footprint(resident, files, threads)


def metric_sums(mesh: Mesh, service: str) -> Mapping[str, float]:
    """Every metric of a service's instances, summed over labels and instances."""
    sums: dict[str, float] = {}
    for row in mesh.instances(service):
        meta = row["Service"]["Meta"]
        text = httpx.get(f"http://{row['Service']['Address']}:{meta['metrics_port']}/").text
        for name, value in _SAMPLE.findall(text):
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums
