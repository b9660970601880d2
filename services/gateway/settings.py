"""What the gateway is told by its environment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mesh.settings import Address, ServiceSettings


class GatewaySettings(ServiceSettings):
    """`listen` is the gRPC listener, `http_listen` the one for REST."""

    mesh_address: Address
    """Envoy's mesh listener: every call to a node goes there."""
    grpc_server: Literal["native", "grpcio"] = "grpcio"
    """The native server is 0.2 ms a call faster, but refuses deflate, which clients may send."""
    http_listen: Address = "127.0.0.1:0"
    max_body_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    """The largest HTTP request body, after it is inflated."""
    infer_timeout_s: float = Field(default=60.0, gt=0)
    """For a caller that sets no deadline of its own."""
    generate_timeout_s: float = Field(default=600.0, gt=0)
    resume_attempts: int = Field(default=2, ge=0)
    """How often a generation that broke off is taken up again."""
