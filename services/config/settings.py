"""What the config service is told by its environment."""

from __future__ import annotations

from mesh.settings import ServiceSettings


class ConfigSettings(ServiceSettings):
    """It keeps nothing of its own: what all services are told is enough."""
