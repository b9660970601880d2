"""What `ringmesh up` is told by its environment, checked before anything starts."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from mesh.settings import Address

Port = Annotated[int, Field(ge=0, le=65535)]
"""0 picks a free one."""


class LocalSettings(BaseSettings):
    """The mesh on one machine; two of them run side by side when ports and folder differ."""

    model_config = SettingsConfigDict(
        env_prefix="RINGMESH_",
        env_ignore_empty=True,  # as the tools that share these variables do
        frozen=True,
        extra="forbid",
        populate_by_name=True,
    )

    state_dir: Path = Path(".ringmesh")
    edge_port: Port = 8080
    consul_port: Port = 8500
    envoy_admin_port: Port = 9901
    demo: bool = True
    """Whether the demo models are fetched, published and waited for."""
    nodes: int = Field(default=2, ge=1, le=64)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_timeout_s: float = Field(default=10.0, ge=0)
    start_timeout_s: float = Field(default=180.0, gt=0)
    consul_address: Address | None = Field(
        default=None, validation_alias=AliasChoices("CONSUL_HTTP_ADDR", "consul_address")
    )
    """A Consul that runs already; unset: one of our own."""
    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint"
        ),
    )
    """A collector that runs already; unset: the trace sink of our own."""

    @field_validator("consul_address", mode="before")
    @classmethod
    def _without_scheme(cls, value: object) -> object:
        """Consul's own tools take CONSUL_HTTP_ADDR with a scheme as well."""
        return value.removeprefix("http://").rstrip("/") if isinstance(value, str) else value
