"""Runs the migrations that the database lacks.

Alembic is imported only when there is one: at most once per release, and a quarter of the process's
start otherwise. Migrations are numbered by the beginning of their files' names.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

import services.registry
from mesh.errors import FailedPrecondition

SCRIPTS = Path(services.registry.__file__).parent / "migrations"


def migrate(connection: Connection) -> None:
    """Brings the tables up to date inside the connection's transaction.

    Raises:
        FailedPrecondition: they are of a later release than this one.
    """
    found, newest = _current(connection), newest_migration()
    if found > newest:
        raise FailedPrecondition(
            f"the registry's database is of a later release (migration {found}, here {newest})"
        )
    if found < newest:
        _upgrade(connection)


def newest_migration() -> str:
    """The number of the last migration that this release brings."""
    names = (path.stem for path in (SCRIPTS / "versions").glob("[0-9]*.py"))
    return max(name.partition("_")[0] for name in names)


def _current(connection: Connection) -> str:
    """The number of the last migration that the database has seen; empty for a new one."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return str(found or "")


def _upgrade(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415  # see above
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
