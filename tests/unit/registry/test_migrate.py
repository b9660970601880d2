"""Migrations: run once, never backwards, and numbered as Alembic orders them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from mesh.errors import FailedPrecondition
from services.registry.records import DeploymentRecord, Target
from services.registry.storage.ledger import Ledger
from services.registry.storage.migrate import SCRIPTS, migrate, newest_migration


def test_the_newest_is_alembics_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    assert ScriptDirectory.from_config(config).get_heads() == [newest_migration()]


def test_a_database_of_a_later_release_is_left_alone(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/registry.db")
    with engine.begin() as connection:
        migrate(connection)
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(FailedPrecondition, match="of a later release"):
            migrate(connection)
    engine.dispose()


def test_what_was_deployed_before_there_was_paging_stays_in_memory(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/registry.db")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(SCRIPTS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("INSERT INTO models VALUES ('m', 'tensor', 1, 1)"))
        deployed = """INSERT INTO deployments VALUES ('m', 1, 2, '[[1, 100]]')"""
        connection.execute(text(deployed))
        migrate(connection)
        (found,) = Ledger(connection).deployments()
    engine.dispose()
    assert found == DeploymentRecord("m", 1, 2, (Target(1, 100),), may_page=False)


def test_a_database_that_is_up_to_date_costs_no_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    engine = create_engine(url)
    with engine.begin() as connection:
        migrate(connection)
    engine.dispose()
    code = f"""
import sys
from sqlalchemy import create_engine
from services.registry.storage.migrate import migrate
with create_engine({url!r}).begin() as connection:
    migrate(connection)
assert "alembic" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=SCRIPTS.parents[2])
