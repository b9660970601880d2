"""What the registry is told by its environment."""

from __future__ import annotations

from pydantic import Field

from mesh.settings import ServiceSettings


class RegistrySettings(ServiceSettings):
    """Settings of the registry; the limits keep one publisher from filling the mesh."""

    registry_database_url: str | None = None
    """SQLAlchemy's form, e.g. `postgresql+psycopg://user@host/name`; unset: a SQLite file."""
    store_url: str | None = None
    max_blob_bytes: int = Field(default=64 * 1024**3, ge=1)

    @property
    def database_url(self) -> str:
        """Where models, versions, aliases and deployments are kept."""
        file = self.state_dir.resolve() / "registry.db"
        return self.registry_database_url or f"sqlite:///{file}"

    @property
    def artefact_store_url(self) -> str:
        """Where artefacts lie."""
        return self.store_url or self.store_default
