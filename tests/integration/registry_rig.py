"""The registry as its callers meet it: its own server, a real stub, a real Consul."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import grpc

from mesh.catalog import Catalog
from mesh.deployment import DEPLOYMENTS_PREFIX, Deployment
from mesh.pb import registry_pb2 as pb
from mesh.pb import registry_pb2_grpc
from mesh.server import serve
from mesh.store import ArtefactStore
from mesh.telemetry import open_telemetry
from services.registry.publication import Publication
from services.registry.registry import Registry
from services.registry.registry_servicer import RegistryServicer, registry_binding
from services.registry.storage.database import Database

TIMEOUT_S = 20.0
MAX_BLOB_BYTES = 3_000_000


@dataclass
class RegistryRig:
    stub: registry_pb2_grpc.RegistryStub
    database: Database
    store: ArtefactStore

    async def upload(self, *parts: bytes, digest: str | None = None) -> pb.Blob:
        named = sha256(b"".join(parts)) if digest is None else digest

        async def requests() -> AsyncIterator[pb.UploadBlobRequest]:
            yield pb.UploadBlobRequest(digest=named)
            for part in parts:
                yield pb.UploadBlobRequest(chunk=part)

        return await self.stub.UploadBlob(requests(), timeout=TIMEOUT_S)

    async def create(
        self, name: str, files: Mapping[str, bytes] | None = None, format_: str = "identity"
    ) -> pb.ModelVersion:
        request = pb.CreateModelVersionRequest(manifest_json=manifest(name, format_))
        for path, content in (files or {}).items():
            await self.upload(content)
            request.files.add(path=path, digest=sha256(content), size_bytes=len(content))
        return await self.stub.CreateModelVersion(request, timeout=TIMEOUT_S)

    async def deploy(
        self,
        model: str,
        weights: Mapping[str, int],
        replicas: int = 0,
        *,
        may_page: bool = False,
    ) -> pb.Deployment:
        targets = [pb.Target(version=version, weight=weight) for version, weight in weights.items()]
        request = pb.SetDeploymentRequest(
            model=model, targets=targets, replicas=replicas, may_page=may_page
        )
        return await self.stub.SetDeployment(request, timeout=TIMEOUT_S)

    async def alias(self, model: str, alias: str, version: int) -> pb.Model:
        request = pb.SetAliasRequest(model=model, alias=alias, version=version)
        return await self.stub.SetAlias(request, timeout=TIMEOUT_S)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def manifest(name: str, format_: str = "identity") -> str:
    return json.dumps({"name": name, "task": "tensor", "format": format_})


async def published(catalog: Catalog, model: str) -> Deployment | None:
    entry = await catalog.get(DEPLOYMENTS_PREFIX + model)
    return None if entry is None else Deployment.from_json(entry.value)


@asynccontextmanager
async def open_registry(
    folder: Path,
    consul: str,
    *,
    implementation: Literal["native", "grpcio"] = "native",
    database_url: str | None = None,
) -> AsyncIterator[RegistryRig]:
    """The registry on what `folder` holds from before."""
    store = ArtefactStore((folder / "artefacts").as_uri())
    with open_telemetry("registry", "registry-test", otlp_endpoint=None) as telemetry:
        async with (
            Database.open(database_url or f"sqlite:///{folder}/registry.db") as database,
            Catalog.open(consul) as catalog,
        ):
            publication = Publication(catalog, database)
            registry = Registry(database, store, publication, max_blob_bytes=MAX_BLOB_BYTES)
            async with (
                publication.healing(),
                serve(
                    listen="127.0.0.1:0",
                    services=[registry_binding(RegistryServicer(registry))],
                    telemetry=telemetry,
                    drain_timeout_s=0,
                    implementation=implementation,
                ) as server,
                grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
            ):
                yield RegistryRig(registry_pb2_grpc.RegistryStub(channel), database, store)
