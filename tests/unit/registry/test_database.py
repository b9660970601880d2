"""The database's file: migrated to what the tables say, and back at once when it is busy."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from mesh.errors import FailedPrecondition, Unavailable
from services.registry.storage.database import Database
from services.registry.storage.ledger import Ledger
from services.registry.storage.tables import metadata


async def test_the_migrations_make_the_tables(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/below/registry.db"
    async with Database.open(url):
        pass
    engine = create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


async def test_many_may_open_the_same_new_database_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"

    async def use() -> int:
        async with Database.open(url) as database:
            return len(await database.read(lambda ledger: ledger.models()))

    assert await asyncio.gather(*(use() for _ in range(8))) == [0] * 8


async def test_a_transaction_that_fails_changes_nothing(tmp_path: Path) -> None:
    def fail(ledger: Ledger) -> None:
        ledger.add_model("m", "tensor")
        raise FailedPrecondition("no")

    async with Database.open(f"sqlite:///{tmp_path}/registry.db") as database:
        with pytest.raises(FailedPrecondition):
            await database.write(fail)
        assert await database.read(lambda ledger: ledger.models()) == []


async def test_what_is_no_database_is_said_in_our_terms(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_text("no database at all, but a text of some length")
    with pytest.raises(Unavailable, match="database"):
        async with Database.open(f"sqlite:///{tmp_path}/registry.db"):
            pass


async def test_a_missing_driver_is_named() -> None:
    with pytest.raises(FailedPrecondition, match="not installed"):
        async with Database.open("postgresql+psycopg2cffi://nowhere/registry"):
            pass


async def test_a_database_that_stays_locked_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.registry.storage.database.BUSY_TIMEOUT_S", 0.05)
    async with Database.open(f"sqlite:///{tmp_path}/registry.db") as database:
        other = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="locked"):
            await database.write(lambda ledger: ledger.add_model("m", "tensor"))
        other.close()
        await database.write(lambda ledger: ledger.add_model("m", "tensor"))


async def test_a_password_is_not_shown(tmp_path: Path) -> None:
    url = "sqlite:///" + str(tmp_path / "registry.db")
    async with Database.open(url) as database:
        assert "registry.db" in repr(database)
