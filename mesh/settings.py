"""What every service process is told by its environment, checked before the first socket."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^:\s/]+):\d{1,5}")


def _require_address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise ValueError(f"{text!r} is not host:port, such as 127.0.0.1:8500")
    return text


Address = Annotated[str, AfterValidator(_require_address)]
"""`host:port`; port 0 lets the system choose."""


class ServiceSettings(BaseSettings):
    """Settings that all services share; a service adds its own in a subclass."""

    model_config = SettingsConfigDict(
        env_prefix="RINGMESH_", frozen=True, extra="forbid", populate_by_name=True
    )

    state_dir: Path = Path(".ringmesh")
    consul_address: Address = Field(
        default="127.0.0.1:8500",
        validation_alias=AliasChoices("CONSUL_HTTP_ADDR", "RINGMESH_CONSUL_ADDRESS"),
    )
    listen: Address = "127.0.0.1:0"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_timeout_s: float = Field(default=10.0, ge=0)
    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
        ),
    )
    grpc_server: Literal["native", "grpcio"] = "native"

    @property
    def store_default(self) -> str:
        """The artefact store of a single machine: a folder of the state directory."""
        return (self.state_dir.resolve() / "artefacts").as_uri()
