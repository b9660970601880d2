"""Where this mesh listens and whom it tells: fixed when the process starts."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import Field

from mesh.settings import Address, ServiceSettings


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Reads `host:port`, IPv6 in brackets."""
        parts = urlsplit(f"//{text}")
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"{text!r} is not host:port")
        return cls(parts.hostname, parts.port)


@dataclass(frozen=True, slots=True)
class Collector:
    """Where spans go."""

    endpoint: Endpoint
    tls: bool

    @classmethod
    def parse(cls, url: str) -> Collector:
        """Reads an OTLP endpoint: `http://host:4317`, `https://...` or `host:4317`."""
        parts = urlsplit(url if "://" in url else f"//{url}")
        if parts.hostname is None:
            raise ValueError(f"{url!r} is not an OTLP endpoint")
        return cls(Endpoint(parts.hostname, parts.port or 4317), tls=parts.scheme == "https")


@dataclass(frozen=True, slots=True)
class Topology:
    """Envoy's two listeners and the collector of its spans."""

    edge: Endpoint
    mesh: Endpoint
    collector: Collector | None


class ControlplaneSettings(ServiceSettings):
    """What the control plane is told by its environment."""

    controlplane_listen: Address = "127.0.0.1:18000"
    """Fixed, because Envoy's bootstrap names it."""
    controlplane_id: str = Field(default_factory=socket.gethostname)
    edge_address: str = "127.0.0.1"
    edge_port: int = Field(default=8080, ge=1, le=65535)
    mesh_address: Address = "127.0.0.1:8081"

    def topology(self) -> Topology:
        """The fixed part of what Envoy is told."""
        collector = None if self.otlp_endpoint is None else Collector.parse(self.otlp_endpoint)
        edge = Endpoint(self.edge_address, self.edge_port)
        return Topology(edge, Endpoint.parse(self.mesh_address), collector)
