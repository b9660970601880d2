"""The tables. A change here needs a migration in `services/registry/migrations`."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

models = Table(
    "models",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("task", String(32), nullable=False),
    # Counted here and not from the versions: a number is never given twice.
    Column("last_version", BigInteger, nullable=False),
    Column("last_revision", BigInteger, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("model", ForeignKey("models.name"), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False),
    Column("manifest", Text, nullable=False),
    Column("files", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    UniqueConstraint("model", "digest"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("alias", String(63), primary_key=True),
    Column("version", BigInteger, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
)

deployments = Table(
    "deployments",
    metadata,
    Column("model", ForeignKey("models.name"), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("replicas", Integer, nullable=False),
    # JSON: [["champion", 90], [3, 10]]; empty once the deployment is deleted.
    Column("targets", Text, nullable=False),
    Column("may_page", Boolean, nullable=False, server_default=false()),
)
