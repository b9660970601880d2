"""The database: opened and migrated at the start, then transactions in a thread.

SQLAlchemy is used synchronously: the registry writes a few times a minute, and its transactions
then are plain functions. On SQLite a writing transaction takes the write lock at its beginning, so
that what it has read stays true until it commits; on PostgreSQL a change locks its model's row.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from mesh.errors import FailedPrecondition, Unavailable
from mesh.retry import attempts
from services.registry.storage.ledger import Ledger
from services.registry.storage.migrate import migrate

T = TypeVar("T")
Work = Callable[[Ledger], T]

BUSY_TIMEOUT_S = 5.0
MIGRATION_LOCK = 0x72696E67
"""Any number that the registries of one database agree on."""


class Database:
    """Where the registry's content lives."""

    def __init__(self, engine: Engine) -> None:
        self._readers = _as_of_one_moment(engine)
        self._writers = engine.execution_options(begin="BEGIN IMMEDIATE")

    def __repr__(self) -> str:
        return f"Database({self._readers.url.render_as_string(hide_password=True)!r})"

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Database]:
        """Opens the database and brings its tables up to date.

        Raises:
            Unavailable: it does not answer.
            FailedPrecondition: its driver is not installed.
        """
        engine = _make_engine(url)
        try:
            database = cls(engine)
            # SQLite's change to a write-ahead log does not wait for its turn.
            async for attempt in attempts(within_s=BUSY_TIMEOUT_S, first_wait_s=0.02, on=_Busy):
                with attempt:
                    await asyncio.to_thread(database.migrate)
            yield database
        finally:
            engine.dispose()

    async def read(self, work: Work[T]) -> T:
        """What `work` reads, all as of one moment."""
        return await asyncio.to_thread(_transact, self._readers, work)

    async def write(self, work: Work[T]) -> T:
        """What `work` returns, its changes committed; if it raises, nothing has changed."""
        try:
            return await asyncio.to_thread(_transact, self._writers, work)
        except _Raced:
            return await asyncio.to_thread(_transact, self._writers, work)

    def migrate(self) -> None:
        """Brings the tables up to date; of several registries that start at once, one does it."""
        with _answering(), self._writers.begin() as connection:
            if connection.dialect.name == "postgresql":
                lock = text("SELECT pg_advisory_xact_lock(:lock)")
                connection.execute(lock, {"lock": MIGRATION_LOCK})
            migrate(connection)


class _Raced(Unavailable):
    """Another transaction created the same row first; the next attempt will find it."""


class _Busy(Unavailable):
    """Another process holds the SQLite file at this moment."""


@contextmanager
def _answering() -> Iterator[None]:
    """Turns a driver's errors into ours."""
    try:
        yield
    except IntegrityError as error:
        raise _Raced("two changes at once; try again") from error
    except DBAPIError as error:
        is_busy = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
        kind = _Busy if is_busy else Unavailable
        raise kind(f"the registry's database does not answer: {error.orig}") from error


def _transact(engine: Engine, work: Work[T]) -> T:
    with _answering(), engine.begin() as connection:
        return work(Ledger(connection))


def _as_of_one_moment(engine: Engine) -> Engine:
    """SQLite's transactions see one state by themselves."""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ")


def _make_engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    try:
        engine = create_engine(parsed, pool_pre_ping=True)
    except ImportError as error:
        raise FailedPrecondition(
            f"the database driver of {parsed.drivername} is not installed: {error}"
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver would begin its transactions too late
    busy_timeout = f"busy_timeout={BUSY_TIMEOUT_S * 1000:.0f}"
    for pragma in (busy_timeout, "journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
