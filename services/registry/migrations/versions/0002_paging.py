"""Whether a deployment's versions may leave memory between two requests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column; what is deployed stays in memory, as before."""
    column = sa.Column("may_page", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("deployments", column)


def downgrade() -> None:
    """Drops the column."""
    op.drop_column("deployments", "may_page")
