"""Deployments for tests."""

from __future__ import annotations

from mesh.deployment import Deployment, TargetSpec, VersionSpec
from mesh.manifest import TASK_OF_FORMAT, Format, Manifest


def deployment(
    model: str, shares: dict[int, int], aliases: dict[str, int] | None = None, replicas: int = 2
) -> Deployment:
    aliases = aliases or {}
    return Deployment(
        model=model,
        revision=1,
        replicas=replicas,
        targets=tuple(TargetSpec(version=v, weight=w) for v, w in shares.items()),
        aliases=aliases,
        versions={v: version_spec(model, v) for v in {*shares, *aliases.values()}},
    )


def version_spec(model: str, version: int, format_: Format = "identity") -> VersionSpec:
    manifest = Manifest(name=model, task=TASK_OF_FORMAT[format_], format=format_)
    return VersionSpec(version=version, digest=f"{version:064x}", manifest=manifest, files=())
