"""What Consul shows of the mesh: every registered instance with its health, failing ones included.

The catalog module hides failing instances, because no process of the mesh has a use for them; a
person who asks how the mesh is does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import httpx

from mesh.deployment import DEPLOYMENTS_PREFIX, Deployment
from mesh.local.problem import LocalProblem

SERVICES = ("gateway", "inference", "registry", "config", "controlplane")
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class InstanceState:
    """A registered instance."""

    id: str
    service: str
    address: str
    status: str
    tags: tuple[str, ...]
    meta: dict[str, str]


@dataclass(frozen=True, slots=True)
class ModelState:
    """A deployed model version and the nodes that have it ready."""

    model: str
    version: int
    weight: int
    replicas: int
    ready_nodes: tuple[str, ...]


class ConsulView:
    """Consul's HTTP API at `host:port`; use as a context manager."""

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(
            base_url=f"http://{address}/v1", timeout=_TIMEOUT_S, trust_env=False
        )
        self._address = address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def instances(self) -> list[InstanceState]:
        """All instances of the mesh's services."""
        rows = (row for service in SERVICES for row in self._get(f"/health/service/{service}"))
        return [_read_instance(row) for row in rows]

    def deployments(self) -> list[Deployment]:
        """What should be served."""
        keys = self._get(f"/kv/{DEPLOYMENTS_PREFIX}", keys="true") or []
        values = (self._client.get(f"/kv/{key}", params={"raw": "true"}) for key in sorted(keys))
        return [Deployment.from_json(value.content) for value in values if value.is_success]

    def _get(self, path: str, **params: str) -> Any:
        try:
            answer = self._client.get(path, params=params)
        except httpx.HTTPError as error:
            raise LocalProblem(
                f"Consul does not answer at {self._address} ({error}): `ringmesh logs consul` may "
                f"say why."
            ) from error
        return answer.json() if answer.is_success else None


def list_model_states(
    deployments: list[Deployment], instances: list[InstanceState]
) -> list[ModelState]:
    """Every version that should be served, with its share and the nodes that have it ready."""
    return [
        ModelState(
            model=deployment.model,
            version=target.version,
            weight=target.weight,
            replicas=deployment.replicas,
            ready_nodes=tuple(
                instance.meta.get("node", instance.id)
                for instance in instances
                if instance.status == "passing"
                and f"{deployment.model}@{target.version}" in instance.tags
            ),
        )
        for deployment in deployments
        for target in deployment.targets
    ]


def _read_instance(row: dict[str, Any]) -> InstanceState:
    service = row["Service"]
    statuses = {check["Status"] for check in row["Checks"]}
    return InstanceState(
        id=service["ID"],
        service=service["Service"],
        address=f"{service['Address'] or row['Node']['Address']}:{service['Port']}",
        status=next((s for s in ("critical", "warning") if s in statuses), "passing"),
        tags=tuple(sorted(service["Tags"] or ())),
        meta=dict(service["Meta"] or {}),
    )
