"""Puts a model's files into the registry and asks for it to be served.

Everything is idempotent: blobs that the store holds are not sent, the same artefact again answers
with the version that has it.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc

from mesh.errors import NotFound, error_from_rpc
from mesh.local.model_files import list_files
from mesh.local.problem import LocalProblem
from mesh.manifest import Manifest
from mesh.model_file import HEAD_BYTES, find_fault
from mesh.pb import registry_pb2, registry_pb2_grpc

CHUNK_BYTES = 1 << 20
UPLOAD_TIMEOUT_S = 600.0
CALL_TIMEOUT_S = 30.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of an artefact, before it is in the store."""

    path: str
    """Relative, inside the artefact."""
    source: Path
    digest: str
    size_bytes: int


def read_files(folder: Path) -> list[LocalFile]:
    """The files of the model in a folder, or of the one file that `folder` is, with digests."""
    place = folder if folder.is_dir() else folder.parent
    sources = list_files(folder)
    return [local_file(source.relative_to(place).as_posix(), source) for source in sources]


def local_file(path: str, source: Path, digest: str | None = None) -> LocalFile:
    """A file to publish; its digest is computed unless it is known."""
    if digest is None:
        with source.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    return LocalFile(path, source, digest, source.stat().st_size)


def check_files(files: Iterable[LocalFile]) -> None:
    """Says before anything is sent what the registry would refuse.

    Raises:
        LocalProblem: a file cannot be what its name says.
    """
    for file in files:
        with file.source.open("rb") as content:
            fault = find_fault(file.path, content.read(HEAD_BYTES), file.size_bytes)
        if fault:
            raise LocalProblem(f"{file.source} {fault}.")


class Publisher:
    """The registry, as someone who publishes sees it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._registry = registry_pb2_grpc.RegistryStub(channel)

    async def publish(
        self, manifest: Manifest, files: Iterable[LocalFile], description: str = ""
    ) -> registry_pb2.ModelVersion:
        """Stores what the store lacks and registers the version."""
        files = list(files)
        for file in await self._missing(files):
            upload = self._registry.UploadBlob(_chunks(file), timeout=UPLOAD_TIMEOUT_S)
            await _answer(upload)
        request = registry_pb2.CreateModelVersionRequest(
            manifest_json=manifest.to_json().decode(),
            files=[
                registry_pb2.ArtefactFile(path=f.path, digest=f.digest, size_bytes=f.size_bytes)
                for f in files
            ],
            description=description,
        )
        return await _answer(self._registry.CreateModelVersion(request, timeout=CALL_TIMEOUT_S))

    async def list_versions(self, model: str) -> frozenset[int]:
        """The versions that the registry has of the model."""
        request = registry_pb2.GetModelRequest(name=model)
        try:
            found = await _answer(self._registry.GetModel(request, timeout=CALL_TIMEOUT_S))
        except NotFound:
            return frozenset()
        return frozenset(found.versions)

    async def is_deployed(self, model: str) -> bool:
        """Whether anything of the model should be served."""
        request = registry_pb2.GetDeploymentRequest(model=model)
        try:
            await _answer(self._registry.GetDeployment(request, timeout=CALL_TIMEOUT_S))
        except NotFound:
            return False
        return True

    async def deploy(self, model: str, version: str, replicas: int) -> registry_pb2.Deployment:
        """Asks for one version to take all of the model's traffic."""
        request = registry_pb2.SetDeploymentRequest(
            model=model,
            targets=[registry_pb2.Target(version=version, weight=100)],
            replicas=replicas,
        )
        return await _answer(self._registry.SetDeployment(request, timeout=CALL_TIMEOUT_S))

    async def _missing(self, files: list[LocalFile]) -> list[LocalFile]:
        if not files:
            return []
        request = registry_pb2.ListBlobsRequest(digests=[file.digest for file in files])
        held = await _answer(self._registry.ListBlobs(request, timeout=CALL_TIMEOUT_S))
        digests = {blob.digest for blob in held.blobs}
        return [file for file in files if file.digest not in digests]


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from error


async def _chunks(file: LocalFile) -> AsyncIterator[registry_pb2.UploadBlobRequest]:
    with file.source.open("rb") as content:
        yield registry_pb2.UploadBlobRequest(digest=file.digest)
        while chunk := content.read(CHUNK_BYTES):
            yield registry_pb2.UploadBlobRequest(chunk=chunk)
