"""A node as its own process: placements in by Consul, tags out, its state by its own service."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from mesh.catalog import Catalog, Instance
from mesh.deployment import PLACEMENTS_PREFIX, Assignment, Placement
from mesh.errors import Unavailable
from mesh.pb import node_pb2, node_pb2_grpc
from mesh.store import ArtefactStore
from tests.integration.consul_rig import ConsulRig
from tests.integration.node_rig import NODE, artefact_files

ROOT = Path(__file__).parents[2]


def start_node(
    consul: ConsulRig, folder: Path, name: str, **settings: str
) -> subprocess.Popen[bytes]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RINGMESH_", "OTEL_"))}
    env |= {
        "RINGMESH_NODE_ID": name,
        "RINGMESH_STATE_DIR": str(folder),
        "CONSUL_HTTP_ADDR": consul.address,
        "PYTHONPATH": str(ROOT),
        **{f"RINGMESH_{key.upper()}": value for key, value in settings.items()},
    }
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "services.inference"], env=env, stdout=log, stderr=log
        )


@asynccontextmanager
async def node(
    consul: ConsulRig, folder: Path, name: str = NODE, **settings: str
) -> AsyncIterator[subprocess.Popen[bytes]]:
    process = start_node(consul, folder, name, **settings)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def store_files(state_dir: Path, folder: Path) -> None:
    """Puts a folder's files into the artefact store of that state folder."""
    store = ArtefactStore((state_dir / "artefacts").as_uri())
    for file in artefact_files(folder):
        await store.put(file.digest, folder / file.path)


async def place(catalog: Catalog, *assignments: Assignment, name: str = NODE) -> None:
    placement = Placement(node=name, assignments=assignments)
    await catalog.put(PLACEMENTS_PREFIX + name, placement.to_json())


async def tagged(catalog: Catalog, *tags: str, name: str = NODE) -> Instance:
    """The node's instance, once Consul shows it with these tags."""
    async for instances in catalog.watch_instances("inference"):
        for instance in instances:
            if instance.meta["node"] == name and instance.tags == frozenset(tags):
                return instance
    raise AssertionError


async def gone(catalog: Catalog) -> None:
    """Returns once Consul shows no node."""
    async for instances in catalog.watch_instances("inference"):
        if not instances:
            return


async def ended(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.to_thread(process.wait, 20)


async def status(instance: Instance, model: str) -> node_pb2.ModelStatus:
    """How the node does with a model; it is announced before it has read its placement.

    Raises:
        Unavailable: it has not heard of the model yet.
    """
    async with grpc.aio.insecure_channel(f"{instance.address}:{instance.port}") as channel:
        stub = node_pb2_grpc.NodeStub(channel)  # type: ignore[no-untyped-call]
        found = await stub.ListModels(node_pb2.ListModelsRequest())
        for each in found.models:
            if each.model == model:
                return each
        raise Unavailable(f"the node has not heard of {model} yet")
