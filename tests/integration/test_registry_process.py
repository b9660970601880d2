"""The registry as a process: found in Consul, lean under large files, gone before it stops."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from mesh.catalog import Catalog
from mesh.pb import registry_pb2 as pb
from mesh.pb import registry_pb2_grpc
from tests.integration.consul_rig import ConsulRig
from tests.integration.registry_rig import TIMEOUT_S, manifest, published
from tests.integration.service_process import start_service

MIB = 1024 * 1024
LARGE_MIB = 100
GROWTH_BYTES = 50 * MIB
"""What an upload of any size may take: the parts that are on their way to the disk."""


def part(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest() * (MIB // 32)


async def test_a_large_file_is_stored_without_being_held(consul: ConsulRig, tmp_path: Path) -> None:
    whole = hashlib.sha256()
    for number in range(LARGE_MIB):
        whole.update(part(number))
    digest = whole.hexdigest()

    async def requests() -> AsyncIterator[pb.UploadBlobRequest]:
        yield pb.UploadBlobRequest(digest=digest)
        for number in range(LARGE_MIB):
            yield pb.UploadBlobRequest(chunk=part(number))

    async with (
        start_service("registry", consul.address, tmp_path) as registry,
        grpc.aio.insecure_channel(registry.address) as channel,
    ):
        stub = registry_pb2_grpc.RegistryStub(channel)
        await stub.ListModels(pb.ListModelsRequest(), timeout=TIMEOUT_S)
        before = registry.peak_memory_bytes
        blob = await stub.UploadBlob(requests(), timeout=100)
        assert blob.size_bytes == LARGE_MIB * MIB
        assert registry.peak_memory_bytes - before < GROWTH_BYTES


async def test_it_is_found_in_consul_and_leaves_before_it_stops(
    consul: ConsulRig, tmp_path: Path
) -> None:
    async with (
        Catalog.open(consul.address) as catalog,
        start_service("registry", consul.address, tmp_path) as registry,
    ):
        assert int(registry.instance.meta["metrics_port"]) > 0
        instances = catalog.watch_instances("registry")
        assert len(await anext(instances)) == 1
        assert await registry.stop() == 0
        assert await anext(instances) == ()
        events = [json.loads(line) for line in registry.log.read_text().splitlines()]
        assert not [event for event in events if event["level"] in ("error", "critical")]


async def test_what_it_knew_is_there_after_a_kill(consul: ConsulRig, tmp_path: Path) -> None:
    async with Catalog.open(consul.address) as catalog:
        async with (
            start_service("registry", consul.address, tmp_path) as registry,
            grpc.aio.insecure_channel(registry.address) as channel,
        ):
            stub = registry_pb2_grpc.RegistryStub(channel)
            create = pb.CreateModelVersionRequest(manifest_json=manifest("probe"))
            created = await stub.CreateModelVersion(create, timeout=TIMEOUT_S)
            target = pb.Target(version="1", weight=1)
            deploy = pb.SetDeploymentRequest(model="probe", targets=[target])
            deployed = await stub.SetDeployment(deploy, timeout=TIMEOUT_S)
            registry.process.kill()
            registry.process.wait()
        async with (
            start_service("registry", consul.address, tmp_path) as registry,
            grpc.aio.insecure_channel(registry.address) as channel,
        ):
            stub = registry_pb2_grpc.RegistryStub(channel)
            assert await stub.CreateModelVersion(create, timeout=TIMEOUT_S) == created
            assert await stub.SetDeployment(deploy, timeout=TIMEOUT_S) == deployed
        document = await published(catalog, "probe")
        assert document is not None
        assert document.revision == deployed.revision == 1
