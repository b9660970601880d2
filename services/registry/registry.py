"""The registry's work across its three places: artefact store, SQL, and Consul after SQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

from mesh.deployment import ArtefactFile
from mesh.errors import FailedPrecondition, InvalidArgument, PayloadTooLarge
from mesh.model_file import HEAD_BYTES, find_fault
from mesh.store import ArtefactStore
from services.registry import changes
from services.registry.artefact import Artefact
from services.registry.publication import Publication
from services.registry.records import DeploymentRecord, ModelRecord, Target, VersionRecord
from services.registry.storage.database import Database

Clock = Callable[[], float]


class Registry:
    """Models, their versions and aliases, and what should serve."""

    def __init__(
        self,
        database: Database,
        store: ArtefactStore,
        publication: Publication,
        *,
        max_blob_bytes: int,
        clock: Clock = time.time,
    ) -> None:
        self._database = database
        self._store = store
        self._publication = publication
        self._max_blob_bytes = max_blob_bytes
        self._clock = clock

    async def store_blob(self, digest: str, chunks: AsyncIterator[bytes]) -> int:
        """Stores a file's content if it is what the digest says; returns its size."""
        limited = _limited(chunks, self._max_blob_bytes)
        await self._store.put_stream(digest, limited)
        async for _ in limited:  # the store had it: let the caller finish its sentence
            pass
        size = await self._store.size(digest)
        if size is None:
            raise FailedPrecondition(f"the store lost {digest} right after it was written")
        return size

    async def blob_sizes(self, digests: Sequence[str]) -> dict[str, int]:
        """The sizes of those blobs that the store has."""
        unique = list(dict.fromkeys(digests))
        sizes = await asyncio.gather(*(self._store.size(digest) for digest in unique))
        return {
            digest: size for digest, size in zip(unique, sizes, strict=True) if size is not None
        }

    async def create_version(self, artefact: Artefact, description: str) -> VersionRecord:
        """The version that has this artefact, new or known."""
        await self._check_blobs(artefact.files)
        if artefact.manifest.format != "identity":  # which never opens its files
            await self._check_contents(artefact.files)
        now_unix_ms = int(self._clock() * 1000)
        return await self._database.write(
            lambda ledger: changes.create_version(ledger, artefact, description, now_unix_ms)
        )

    async def version(self, model: str, selector: int | str | None) -> VersionRecord:
        """One version; None selects the newest."""
        return await self._database.read(
            lambda ledger: changes.find_version(ledger, model, selector)
        )

    async def model(self, name: str) -> ModelRecord:
        """One model."""
        return await self._database.read(lambda ledger: changes.find_model(ledger, name))

    async def models(self) -> list[ModelRecord]:
        """All models."""
        return await self._database.read(lambda ledger: ledger.models())

    async def set_alias(self, model: str, alias: str, version: int) -> ModelRecord:
        """Points an alias at a version, and moves the traffic that follows it."""
        changed = await self._database.write(
            lambda ledger: changes.set_alias(ledger, model, alias, version)
        )
        await self._publication.publish(model)
        return changed

    async def delete_alias(self, model: str, alias: str) -> ModelRecord:
        """Forgets an alias."""
        changed = await self._database.write(
            lambda ledger: changes.delete_alias(ledger, model, alias)
        )
        await self._publication.publish(model)
        return changed

    async def set_deployment(
        self, model: str, targets: Sequence[Target], replicas: int, *, may_page: bool = False
    ) -> DeploymentRecord:
        """Says what should serve."""
        record = await self._database.write(
            lambda ledger: changes.set_deployment(
                ledger, model, targets, replicas, may_page=may_page
            )
        )
        await self._publication.publish(model)
        return record

    async def delete_deployment(self, model: str) -> None:
        """Says that nothing of the model should serve."""
        await self._database.write(lambda ledger: changes.delete_deployment(ledger, model))
        await self._publication.publish(model)

    async def deployment(self, model: str) -> DeploymentRecord:
        """What of the model should serve."""
        return await self._database.read(lambda ledger: changes.find_deployment(ledger, model))

    async def deployments(self) -> list[DeploymentRecord]:
        """All that should serve."""
        found = await self._database.read(lambda ledger: ledger.deployments())
        return [record for record in found if not record.is_deleted]

    def is_published(self, record: DeploymentRecord) -> bool:
        """Whether the mesh has been told."""
        return self._publication.is_told(record.model, record.revision)

    async def _check_blobs(self, files: Sequence[ArtefactFile]) -> None:
        sizes = await self.blob_sizes([file.digest for file in files])
        for file in files:
            size = sizes.get(file.digest)
            if size is None:
                raise FailedPrecondition(
                    f"the content of {file.path!r} (SHA-256 {file.digest}) was not uploaded",
                    metadata={"path": file.path, "digest": file.digest},
                )
            if size != file.size_bytes:
                raise InvalidArgument(
                    f"{file.path!r} has {size} bytes, not {file.size_bytes}",
                    field="files.size_bytes",
                )

    async def _check_contents(self, files: Sequence[ArtefactFile]) -> None:
        for index, file in enumerate(files):
            head = await self._store.head(file.digest, min(HEAD_BYTES, file.size_bytes))
            if fault := find_fault(file.path, head, file.size_bytes):
                raise InvalidArgument(f"{file.path!r} {fault}", field=f"files[{index}]")


async def _limited(chunks: AsyncIterator[bytes], limit_bytes: int) -> AsyncIterator[bytes]:
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total > limit_bytes:
            raise PayloadTooLarge(f"a file has at most {limit_bytes} bytes here")
        yield chunk
