"""Runs the migrations that the database lacks."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

import services.registry

SCRIPTS = Path(services.registry.__file__).parent / "migrations"


def migrate(connection: Connection) -> None:
    """Brings the tables up to date inside the connection's transaction."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
