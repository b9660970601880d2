"""The artefact store: content is what its digest says, whole or absent, and shared by hard link."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.deployment import ArtefactFile
from mesh.errors import InvalidArgument, NotFound, Unavailable
from mesh.store import ArtefactStore, blob_key, digest_of, folder_name


@pytest.fixture
def store(tmp_path: Path) -> ArtefactStore:
    return ArtefactStore(f"file://{tmp_path}/store")


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def stored(store: ArtefactStore, path: str, content: bytes) -> ArtefactFile:
    digest = hashlib.sha256(content).hexdigest()
    await store.put_stream(digest, chunks(content))
    return ArtefactFile(path=path, digest=digest, size_bytes=len(content))


async def test_a_file_comes_back_as_it_was_put(store: ArtefactStore, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"w" * 9_000_000)
    digest = digest_of(source)
    assert not await store.has(digest)
    await store.put(digest, source)
    file = ArtefactFile(path="a/weights.bin", digest=digest, size_bytes=9_000_000)
    fetched = await store.fetch(file, tmp_path / "out")
    assert fetched == tmp_path / "out" / "a" / "weights.bin"
    assert digest_of(fetched) == digest


async def test_a_blobs_beginning_is_read_alone(store: ArtefactStore) -> None:
    file = await stored(store, "weights", b"beginning and end")
    assert await store.head(file.digest, 9) == b"beginning"
    assert await store.head(file.digest, 0) == b""


async def test_content_of_another_digest_is_refused_and_leaves_nothing(
    store: ArtefactStore, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await store.put_stream("0" * 64, chunks(b"something", b" else"))
    assert refused.value.field == "digest"
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


async def test_an_upload_that_breaks_off_leaves_nothing(
    store: ArtefactStore, tmp_path: Path
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"the beginning"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.put_stream("0" * 64, broken())
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


async def test_a_full_disk_is_named_and_leaves_nothing(store: ArtefactStore) -> None:
    content = b"w" * 200_000
    digest = hashlib.sha256(content).hexdigest()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(Unavailable, match=r"store file://.* has failed: .* too large"):
            await store.put_stream(digest, chunks(content))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not await store.has(digest)
    await store.put_stream(digest, chunks(content))
    assert await store.has(digest)


async def test_an_empty_file_is_a_file(store: ArtefactStore, tmp_path: Path) -> None:
    file = await stored(store, "empty", b"")
    folder = await store.materialize([file], tmp_path / "cache")
    assert (folder / "empty").read_bytes() == b""


async def test_a_folder_store_shares_its_blobs_and_keeps_them_from_being_written(
    store: ArtefactStore, tmp_path: Path
) -> None:
    file = await stored(store, "model.gguf", b"weights")
    folder = await store.materialize([file], tmp_path / "cache")
    blob = tmp_path / "store" / blob_key(file.digest)
    assert (folder / "model.gguf").samefile(blob)
    assert blob.stat().st_mode & 0o222 == 0


async def test_without_hard_links_the_content_is_copied(
    store: ArtefactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await stored(store, "model.gguf", b"weights")

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("mesh.store.os.link", refuse)
    folder = await store.materialize([file], tmp_path / "cache")
    assert (folder / "model.gguf").read_bytes() == b"weights"
    assert not (folder / "model.gguf").samefile(tmp_path / "store" / blob_key(file.digest))


async def test_a_download_that_was_damaged_is_refused(tmp_path: Path) -> None:
    store = ArtefactStore("memory:///")
    file = await stored(store, "model.gguf", b"weights")
    await store._objects.put_async(blob_key(file.digest), b"wEights")
    with pytest.raises(InvalidArgument, match="SHA-256"):
        await store.materialize([file], tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*/model.gguf")) == []
    assert not (tmp_path / "cache" / folder_name([file])).exists()


async def test_a_blob_that_was_cut_short_is_not_handed_out(
    store: ArtefactStore, tmp_path: Path
) -> None:
    file = await stored(store, "model.gguf", b"weights")
    blob = tmp_path / "store" / blob_key(file.digest)
    blob.chmod(0o644)
    blob.write_bytes(b"wei")
    with pytest.raises(NotFound, match=r"model\.gguf"):
        await store.materialize([file], tmp_path / "cache")


async def test_a_missing_blob_is_named(store: ArtefactStore, tmp_path: Path) -> None:
    file = ArtefactFile(path="model.gguf", digest="a" * 64, size_bytes=1)
    with pytest.raises(NotFound, match=r"model\.gguf.*aaaa"):
        await store.materialize([file], tmp_path / "cache")


async def test_many_at_once_get_the_same_whole_folder(store: ArtefactStore, tmp_path: Path) -> None:
    files = [await stored(store, f"{n}/part", bytes([n]) * 1000) for n in range(10)]
    stores = [ArtefactStore(f"file://{tmp_path}/store") for _ in range(8)]
    folders = await asyncio.gather(
        *(each.materialize(files, tmp_path / "cache") for each in stores)
    )
    assert len(set(folders)) == 1
    found = {str(path.relative_to(folders[0])) for path in folders[0].rglob("*") if path.is_file()}
    assert found == {file.path for file in files}


async def test_what_a_dead_process_left_half_done_is_replaced(
    store: ArtefactStore, tmp_path: Path
) -> None:
    file = await stored(store, "model.gguf", b"weights")
    leftover = tmp_path / "cache" / f"{folder_name([file])}.partial"
    leftover.mkdir(parents=True)
    (leftover / "junk").write_text("junk")
    folder = await store.materialize([file], tmp_path / "cache")
    assert [path.name for path in folder.iterdir()] == ["model.gguf"]
    assert not leftover.exists()


async def test_an_artefact_without_files_is_an_empty_folder(
    store: ArtefactStore, tmp_path: Path
) -> None:
    folder = await store.materialize([], tmp_path / "cache")
    assert list(folder.iterdir()) == []


async def test_what_was_derived_from_an_artefact_comes_back(
    store: ArtefactStore, tmp_path: Path
) -> None:
    engine = tmp_path / "engine"
    engine.write_bytes(b"e" * 6_000_000)
    await store.put_derived("a" * 64, "sm89", engine, keep=2)
    assert await store.fetch_derived("a" * 64, "sm89", tmp_path / "fetched")
    assert digest_of(tmp_path / "fetched") == digest_of(engine)
    assert not await store.fetch_derived("a" * 64, "sm90", tmp_path / "none")
    assert not await store.fetch_derived("b" * 64, "sm89", tmp_path / "none")


async def test_of_what_was_derived_only_the_newest_is_kept(
    store: ArtefactStore, tmp_path: Path
) -> None:
    engine = tmp_path / "engine"
    for age, name in enumerate(["third", "second", "first"]):
        engine.write_bytes(name.encode())
        await store.put_derived("a" * 64, name, engine, keep=3)
        stored = tmp_path / "store" / "derived" / ("a" * 64) / name
        os.utime(stored, (1_700_000_000 - age, 1_700_000_000 - age))
    engine.write_bytes(b"newest")
    await store.put_derived("a" * 64, "newest", engine, keep=3)
    kept = {path.name for path in stored.parent.iterdir()}
    assert kept == {"newest", "third", "second"}


async def test_a_derived_object_of_the_same_name_is_replaced(
    store: ArtefactStore, tmp_path: Path
) -> None:
    engine = tmp_path / "engine"
    for content in (b"damaged", b"whole"):
        engine.write_bytes(content)
        await store.put_derived("a" * 64, "sm89", engine, keep=2)
    assert await store.fetch_derived("a" * 64, "sm89", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == b"whole"
