"""The registry's database; the only part that knows SQLAlchemy and Alembic."""
