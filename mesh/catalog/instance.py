"""A service process as Consul knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Instance:
    """One registered service process; `address` and `port` are where its gRPC server listens."""

    id: str
    service: str
    address: str
    port: int
    tags: frozenset[str] = frozenset()
    meta: Mapping[str, str] = field(default_factory=dict)


def instance_of(row: Mapping[str, Any]) -> Instance:
    """Reads a row of the health endpoint."""
    service = row["Service"]
    return Instance(
        id=service["ID"],
        service=service["Service"],
        address=service["Address"] or row["Node"]["Address"],
        port=service["Port"],
        tags=frozenset(service["Tags"] or ()),
        meta=dict(service["Meta"] or {}),
    )
