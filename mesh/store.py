"""Where artefacts lie: blobs under the SHA-256 of their content, in a folder or an object store.

A blob is checked as it is written and again after it was downloaded, and appears whole or not at
all, so whoever holds a digest holds the content. A folder store hands its blobs out as hard links:
the node reads the very file that was uploaded, and no disk is used twice. This module knows files
and digests; what an artefact means is the manifest's business.

Beside the blobs lie derived objects, which somebody made from an artefact and others may use: they
are named by what they were made from, may go at any time, and are checked by whoever reads them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
from filelock import AsyncFileLock
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh.deployment import ArtefactFile

CHUNK_BYTES = 4 * 1024 * 1024
PARTS_IN_FLIGHT = 3
"""How many parts of 5 MiB an upload holds in memory until the store has taken them."""
READ_ONLY = 0o444


class ArtefactStore:
    """Blobs by digest at a URL: `file:///folder`, `s3://bucket/prefix`, `gs://`, `az://`."""

    def __init__(self, url: str) -> None:
        self._url = url
        parts = urlsplit(url)
        self._folder = Path(unquote(parts.path)) if parts.scheme == "file" else None
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._objects = from_url(url)

    def __repr__(self) -> str:
        return f"ArtefactStore({self._url!r})"

    async def size(self, digest: str) -> int | None:
        """How many bytes the blob has; None where the store does not hold it."""
        with _store_errors(self._url):
            try:
                return (await obstore.head_async(self._objects, blob_key(digest)))["size"]
            except FileNotFoundError:
                return None

    async def head(self, digest: str, size_bytes: int) -> bytes:
        """The first bytes of a blob that the store holds."""
        if not size_bytes:
            return b""
        with _store_errors(self._url):
            found = await obstore.get_range_async(
                self._objects, blob_key(digest), start=0, length=size_bytes
            )
        return bytes(found)

    async def has(self, digest: str) -> bool:
        """Whether the store holds the blob."""
        return await self.size(digest) is not None

    async def put(self, digest: str, path: Path) -> None:
        """Stores a file's content, if it is what the digest says. Idempotent."""
        await self.put_stream(digest, _read(path))

    async def put_stream(self, digest: str, chunks: AsyncIterator[bytes]) -> None:
        """Stores what the chunks add up to, if it is what the digest says. Idempotent.

        Where the store has the blob already, the chunks stay unread.
        """
        if await self.has(digest):
            return
        with _store_errors(self._url):
            await obstore.put_async(
                self._objects,
                blob_key(digest),
                _verified(digest, chunks),
                max_concurrency=PARTS_IN_FLIGHT,
            )
        if self._folder is not None:  # the nodes' hard links share this file's content
            (self._folder / blob_key(digest)).chmod(READ_ONLY)

    async def fetch(self, file: ArtefactFile, into: Path) -> Path:
        """Puts the file under its own name below `into`, by hard link where that can be."""
        target = into / file.path  # below `into`: an ArtefactFile's path cannot leave it
        _make_folder(target.parent)
        if not await self._link(file, target):
            await self._download(file, target)
        return target

    async def materialize(self, files: Sequence[ArtefactFile], cache_dir: Path) -> Path:
        """A folder below `cache_dir` that holds exactly these files under their own names.

        Of several processes that ask at once, one fills it and the others find it filled.
        """
        folder = cache_dir / folder_name(files)
        if folder.is_dir():
            return folder
        _make_folder(cache_dir)
        async with AsyncFileLock(f"{folder}.lock"):
            if not folder.is_dir():
                await self._fill(files, folder)
        return folder

    async def put_derived(self, digest: str, name: str, path: Path, *, keep: int) -> None:
        """Stores a file as derived from the artefact; of all those, only the newest are kept."""
        with _store_errors(self._url):
            await obstore.put_async(
                self._objects, derived_key(digest, name), path, max_concurrency=PARTS_IN_FLIGHT
            )
            found = [
                each async for page in self._objects.list(derived_key(digest)) for each in page
            ]
            found.sort(key=lambda each: each["last_modified"], reverse=True)
            for old in found[keep:]:
                await obstore.delete_async(self._objects, old["path"])

    async def fetch_derived(self, digest: str, name: str, target: Path) -> bool:
        """Writes a derived object's content to a file; False where the store has none."""
        with _store_errors(self._url):
            try:
                answer = await obstore.get_async(self._objects, derived_key(digest, name))
            except FileNotFoundError:
                return False
            with target.open("wb") as out:
                async for chunk in answer.stream(min_chunk_size=CHUNK_BYTES):
                    await asyncio.to_thread(out.write, chunk)
        return True

    async def _fill(self, files: Sequence[ArtefactFile], folder: Path) -> None:
        partial = folder.with_name(f"{folder.name}.partial")
        # Whoever left a partial folder is dead: we hold the lock.
        await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
        partial.mkdir()
        for file in files:
            await self.fetch(file, partial)
        partial.rename(folder)

    async def _link(self, file: ArtefactFile, target: Path) -> bool:
        if self._folder is None:
            return False
        if await self.size(file.digest) != file.size_bytes:
            raise _missing(file)
        temporary = target.with_name(f"{target.name}.{os.getpid()}.link")
        try:
            os.link(self._folder / blob_key(file.digest), temporary)
        except OSError:  # another file system, or one without hard links
            return False
        temporary.replace(target)
        return True

    async def _download(self, file: ArtefactFile, target: Path) -> None:
        temporary = target.with_name(f"{target.name}.{os.getpid()}.download")
        try:
            with _store_errors(self._url), temporary.open("wb") as out:
                blob = await self._open(file)
                async for chunk in _verified(file.digest, blob):
                    await asyncio.to_thread(out.write, chunk)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    async def _open(self, file: ArtefactFile) -> AsyncIterator[bytes]:
        try:
            answer = await obstore.get_async(self._objects, blob_key(file.digest))
        except FileNotFoundError as error:
            raise _missing(file) from error
        return answer.stream(min_chunk_size=CHUNK_BYTES)


def blob_key(digest: str) -> str:
    """Where the blob lies in the store; the two letters keep folders small."""
    return f"sha256/{digest[:2]}/{digest}"


def derived_key(digest: str, name: str | None = None) -> str:
    """Where what was derived from an artefact lies, or one object of it."""
    folder = f"derived/{digest}"
    return folder if name is None else f"{folder}/{name}"


def folder_name(files: Sequence[ArtefactFile]) -> str:
    """A name that only the same files under the same names have."""
    lines = sorted(f"{file.digest} {file.path}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's content, as it names a blob."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _verified(digest: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks, and after the last one an error unless they were what the digest says."""
    seen = hashlib.sha256()
    async for chunk in chunks:
        await asyncio.to_thread(seen.update, chunk)
        yield chunk
    if seen.hexdigest() != digest:
        raise InvalidArgument(
            f"the content has SHA-256 {seen.hexdigest()}, not {digest}", field="digest"
        )


async def _read(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk


def _make_folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def _missing(file: ArtefactFile) -> NotFound:
    return NotFound(
        f"the store does not hold {file.path!r} ({file.size_bytes} bytes, SHA-256 {file.digest})"
    )


@contextmanager
def _store_errors(url: str) -> Iterator[None]:
    """What an object store can answer, in our own terms; secrets never stand in a store's URL."""
    try:
        yield
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise FailedPrecondition(f"the artefact store {url} refuses access") from error
    except BaseError as error:
        first_line = str(error).partition("\n")[0]
        why = first_line.removeprefix("Generic LocalFileSystem error: ")  # a folder has no service
        raise Unavailable(f"the artefact store {url} has failed: {why}") from error
