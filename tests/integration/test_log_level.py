"""The live log level, followed in a real Consul."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

from mesh.catalog import Catalog, KvEntry
from mesh.live_setting import LOG_LEVEL
from mesh.log_level import following_log_level, read_level
from mesh.logs import set_log_level
from tests.integration.consul_rig import open_consul


async def test_a_process_follows_the_setting(consul_binary: Path, tmp_path: Path) -> None:
    async def until(level: int) -> None:
        while logging.getLogger("mesh").level != level:
            await asyncio.sleep(0.01)

    set_log_level("warning")
    async with (
        open_consul(consul_binary, tmp_path) as consul,
        Catalog.open(consul.address) as catalog,
        following_log_level(catalog, "info"),
    ):
        async with asyncio.timeout(20):
            await until(logging.INFO)
            await catalog.put(LOG_LEVEL.path, json.dumps({"value": "debug"}).encode())
            await until(logging.DEBUG)
            await catalog.delete(LOG_LEVEL.path)
            await until(logging.INFO)


def test_what_is_no_level_is_no_level() -> None:
    assert read_level(KvEntry(b'{"value": "loud"}', 1)) is None
    assert read_level(KvEntry(b"{", 1)) is None
    assert read_level(KvEntry(b"[]", 1)) is None
    assert read_level(None) is None
    assert read_level(KvEntry(b'{"value": "debug"}', 1)) == "debug"
