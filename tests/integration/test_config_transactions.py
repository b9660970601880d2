"""Changes of several keys in Consul: all of them or none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.catalog import Catalog, KvDelete, KvPut
from tests.integration.consul_rig import open_consul


@pytest.fixture
async def catalog(consul_binary: Path, tmp_path: Path) -> AsyncIterator[Catalog]:
    async with open_consul(consul_binary, tmp_path) as rig, Catalog.open(rig.address) as opened:
        yield opened


async def index_of(catalog: Catalog, key: str) -> int:
    entry = await catalog.get(key)
    assert entry is not None
    return entry.modify_index


async def test_all_changes_are_made_or_none(catalog: Catalog) -> None:
    assert await catalog.transact(KvPut("t/a", b"\x00a1", 0), KvPut("t/b", b"b1", 0))
    at = await index_of(catalog, "t/a")
    assert not await catalog.transact(KvPut("t/a", b"a2", at), KvPut("t/b", b"b2", 0))
    entries = await catalog.list_prefix("t/")
    assert {key: entry.value for key, entry in entries.items()} == {"t/a": b"\x00a1", "t/b": b"b1"}
    assert await catalog.transact(KvPut("t/a", b"a2", at), KvDelete("t/b", at))
    entries = await catalog.list_prefix("t/")
    assert {key: entry.value for key, entry in entries.items()} == {"t/a": b"a2"}


async def test_a_key_that_changed_is_not_deleted(catalog: Catalog) -> None:
    await catalog.put("t/a", b"1")
    old = await index_of(catalog, "t/a")
    await catalog.put("t/a", b"2")
    assert not await catalog.transact(KvDelete("t/a", old))
    assert await catalog.transact(KvDelete("t/a", await index_of(catalog, "t/a")))
    assert await catalog.get("t/a") is None
