"""A service as its own process, found through Consul as others find it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh.catalog import Catalog, Instance

ROOT = Path(__file__).parents[2]


@dataclass
class ServiceProcess:
    process: subprocess.Popen[bytes]
    instance: Instance
    log: Path

    @property
    def address(self) -> str:
        return f"{self.instance.address}:{self.instance.port}"

    @property
    def peak_memory_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 20)


@asynccontextmanager
async def start_service(name: str, consul: str, folder: Path) -> AsyncIterator[ServiceProcess]:
    """Starts `services.<name>` in an empty folder, on what `folder` holds from before."""
    log = folder / f"{name}.log"
    async with asyncio.timeout(30), Catalog.open(consul) as catalog:
        instances = catalog.watch_instances(name)
        known = {each.id for each in await anext(instances)}
        process = _spawn(name, consul, folder, log)
        try:
            instance = await _new(instances, known)
        except BaseException:
            process.kill()
            process.wait()
            raise
    try:
        yield ServiceProcess(process, instance, log)
    finally:
        process.kill()
        process.wait()


def _spawn(name: str, consul: str, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    environment = {
        **{key: value for key, value in os.environ.items() if "RINGMESH" not in key},
        "PYTHONPATH": str(ROOT),
        "CONSUL_HTTP_ADDR": consul,
        "RINGMESH_STATE_DIR": str(folder / "state"),
    }
    command = [sys.executable, "-m", f"services.{name}"]
    with log.open("ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, cwd=elsewhere, env=environment)


async def _new(instances: AsyncIterator[tuple[Instance, ...]], known: set[str]) -> Instance:
    """The instance that was not there before; one that was killed may still count as passing."""
    async for found in instances:
        for each in found:
            if each.id not in known:
                return each
    raise AssertionError
