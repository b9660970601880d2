from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.errors import Unavailable
from mesh.store import ArtefactStore, derived_key
from services.inference.backends.tensorrt.engine_cache import (
    DerivedStore,
    EngineCache,
    engine_folder,
)
from services.inference.backends.tensorrt.engine_file import FILE
from services.inference.backends.tensorrt.gpu import Architecture
from tests.unit.tensorrt.test_engine_file import KEY


class Builder:
    """Notes how often it is asked."""

    def __init__(self, content: bytes = b"plan") -> None:
        self.count = 0
        self._content = content

    def __call__(self, folder: Path, plan: Path) -> None:
        self.count += 1
        (folder / "graph.onnx").write_bytes(b"large")
        plan.write_bytes(self._content)


class Node:
    """A machine with a disk of its own, and a builder that counts."""

    def __init__(self, disk: Path, store: DerivedStore | None) -> None:
        self.disk = disk
        self.builder = Builder()
        self.cache = EngineCache(store)

    def obtain(self) -> bytes | None:
        self.cache.obtain(self.disk, "model", KEY, self.builder)
        return self.cache.load(self.disk, KEY)


@pytest.fixture
def store(tmp_path: Path) -> ArtefactStore:
    return ArtefactStore(f"file://{tmp_path}/store")


def test_what_is_not_there_is_built_once_and_found_again(tmp_path: Path) -> None:
    node = Node(tmp_path / "a", None)
    assert node.cache.load(node.disk, KEY) is None
    assert node.obtain() == b"plan"
    assert node.obtain() == b"plan"
    assert node.builder.count == 1
    assert {path.name for path in engine_folder(node.disk, KEY).iterdir()} == {FILE, "used-by"}


def test_another_node_fetches_what_one_has_built(tmp_path: Path, store: ArtefactStore) -> None:
    first, second = Node(tmp_path / "a", store), Node(tmp_path / "b", store)
    assert first.obtain() == second.obtain() == b"plan"
    assert (first.builder.count, second.builder.count) == (1, 0)
    other = replace(KEY, architecture=Architecture(9, 0))
    assert second.cache.load(second.disk, other) is None


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"ringmesh-engine/1 {}\nplan"])
def test_a_damaged_object_in_the_store_is_built_again_and_replaced(
    tmp_path: Path, store: ArtefactStore, damage: bytes
) -> None:
    Node(tmp_path / "a", store).obtain()
    (tmp_path / "store" / derived_key(KEY.digest, KEY.name)).write_bytes(damage)
    second, third = Node(tmp_path / "b", store), Node(tmp_path / "c", store)
    assert second.obtain() == b"plan"
    assert second.builder.count == 1
    assert third.obtain() == b"plan"
    assert third.builder.count == 0


def test_a_damaged_engine_on_the_disk_is_thrown_away(tmp_path: Path) -> None:
    node = Node(tmp_path / "a", None)
    node.obtain()
    file = engine_folder(node.disk, KEY) / FILE
    file.write_bytes(file.read_bytes()[:-1])
    assert node.cache.load(node.disk, KEY) is None
    assert not file.exists()
    assert node.obtain() == b"plan"
    assert node.builder.count == 2


class UnreachableStore:
    """A store that is down."""

    async def put_derived(self, digest: str, name: str, path: Path, *, keep: int) -> None:
        raise Unavailable("the store is down")

    async def fetch_derived(self, digest: str, name: str, target: Path) -> bool:
        target.write_bytes(b"half of it")  # noqa: ASYNC240 - a test
        raise Unavailable("the store is down")


def test_a_store_that_is_down_costs_a_build_and_nothing_more(tmp_path: Path) -> None:
    node = Node(tmp_path / "a", UnreachableStore())
    assert node.obtain() == b"plan"
    assert node.builder.count == 1


async def test_it_may_be_asked_beside_a_running_loop(tmp_path: Path, store: ArtefactStore) -> None:
    node = Node(tmp_path, store)
    assert await asyncio.to_thread(node.obtain) == b"plan"


def test_a_build_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    node = Node(tmp_path / "a", None)

    def fail(_folder: Path, _plan: Path) -> None:
        raise Unavailable("no")

    with pytest.raises(Unavailable):
        node.cache.obtain(node.disk, "model", KEY, fail)
    assert node.cache.load(node.disk, KEY) is None
    assert node.obtain() == b"plan"
