"""Alembic's entry: runs migrations in the transaction that `storage.migrate` has open."""

from __future__ import annotations

from alembic import context

from services.registry.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
context.run_migrations()
