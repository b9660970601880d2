"""What the registry keeps, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.deployment import VersionSpec
from mesh.manifest import Task


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model: its versions' numbers, oldest first, and the aliases that point at some of them."""

    name: str
    task: Task
    versions: tuple[int, ...]
    aliases: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A model version as it was registered; it never changes."""

    model: str
    spec: VersionSpec
    description: str
    created_unix_ms: int


@dataclass(frozen=True, slots=True)
class Target:
    """A share of a model's traffic for the version that a number or an alias stands for."""

    selector: int | str
    weight: int


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """What was asked to serve.

    Without targets the deployment is deleted; the record stays, so that a revision never comes
    twice and the key that was published is known to be ours to delete.
    """

    model: str
    revision: int
    replicas: int
    targets: tuple[Target, ...]
    may_page: bool = False

    @property
    def is_deleted(self) -> bool:
        """Whether nothing of the model should serve."""
        return not self.targets
