"""A real Consul that a test may kill and start again, for the services that live on it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mesh.catalog import Catalog
from mesh.errors import Unavailable
from mesh.local.consul_agent import make_consul_config
from mesh.ports import free_ports

T = TypeVar("T")
READY_S = 30.0


@dataclass
class ConsulRig:
    binary: Path
    folder: Path
    ports: tuple[int, int, int]
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports[0]}"

    async def start(self) -> None:
        self.process = self._spawn()
        async with Catalog.open(self.address) as catalog:
            await eventually(lambda: catalog.put("probe", b"1"))

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _spawn(self) -> subprocess.Popen[bytes]:
        config = self.folder / "consul.json"
        config.write_text(json.dumps(self._config()))
        command = [self.binary, "agent", f"-config-file={config}"]
        with (self.folder / "consul.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def _config(self) -> dict[str, object]:
        @dataclass
        class Ports:
            consul: str
            consul_server: str
            consul_serf: str

        ports = Ports(*(f"127.0.0.1:{port}" for port in self.ports))
        return make_consul_config(self.folder / "consul", ports, (1, 8, 7))  # type: ignore[arg-type]


@asynccontextmanager
async def open_consul(binary: Path, folder: Path) -> AsyncIterator[ConsulRig]:
    http, server, serf = free_ports(3)
    rig = ConsulRig(binary, folder, (http, server, serf))
    try:
        await rig.start()
        yield rig
    finally:
        rig.kill()


async def eventually(
    ask: Callable[[], Awaitable[T]], accept: Callable[[T], bool] = lambda _: True
) -> T:
    """Asks until the answer is as wanted; a part that does not answer yet is no answer."""
    last: object = None
    try:
        async with asyncio.timeout(READY_S):
            while True:
                try:
                    found = await ask()
                except Unavailable as error:
                    last = error
                else:
                    last = found
                    if accept(found):
                        return found
                await asyncio.sleep(0.03)
    except TimeoutError:
        raise AssertionError(f"never as wanted; the last answer was {last!r}") from None
