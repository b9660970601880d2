"""Deployments, and a small world with them, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mesh.controlplane.build import World
from mesh.controlplane.topology import Collector, Endpoint, Topology
from mesh.deployment import Deployment, TargetSpec, VersionSpec
from mesh.manifest import TASKS_OF_FORMAT, Format, Manifest

TOPOLOGY = Topology(
    Endpoint("127.0.0.1", 8080),
    Endpoint("127.0.0.1", 8081),
    Collector.parse("http://127.0.0.1:4317"),
)


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
    manifest = Manifest(name=model, task=TASKS_OF_FORMAT[format_][0], format=format_)
    return VersionSpec(version=version, digest=f"{version:064x}", manifest=manifest, files=())


def world(**fields: Any) -> World:
    deployments = {"m": deployment("m", {1: 90, 2: 10, 3: 0}, {"champion": 1})}
    return replace(World(deployments=deployments), **fields)
