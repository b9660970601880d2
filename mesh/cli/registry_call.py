"""What commands ask of the registry, and its answers as plain JSON values."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from mesh.cli.call import TIMEOUT_S, call
from mesh.pb import registry_pb2 as pb
from mesh.pb import registry_pb2_grpc

T = TypeVar("T")
Json = dict[str, Any]


def ask_registry(edge: str, ask: Callable[[registry_pb2_grpc.RegistryStub], Awaitable[T]]) -> T:
    """The registry's answer."""

    async def through(channel: grpc.aio.Channel) -> T:
        return await ask(registry_pb2_grpc.RegistryStub(channel))

    return call(edge, through)


async def list_models(registry: registry_pb2_grpc.RegistryStub) -> list[Json]:
    """Each model with its deployment."""
    models = await registry.ListModels(pb.ListModelsRequest(), timeout=TIMEOUT_S)
    deployments = await registry.ListDeployments(pb.ListDeploymentsRequest(), timeout=TIMEOUT_S)
    by_model = {each.model: read_deployment(each) for each in deployments.deployments}
    return [read_model(each) | {"deployment": by_model.get(each.name)} for each in models.models]


async def show_model(registry: registry_pb2_grpc.RegistryStub, name: str) -> Json:
    """A model with its versions and its deployment."""
    model = await registry.GetModel(pb.GetModelRequest(name=name), timeout=TIMEOUT_S)
    versions = [
        await registry.GetModelVersion(
            pb.GetModelVersionRequest(model=name, version=str(number)), timeout=TIMEOUT_S
        )
        for number in model.versions
    ]
    return read_model(model) | {
        "versions": [read_version(each) for each in versions],
        "deployment": await find_deployment(registry, name),
    }


async def find_deployment(registry: registry_pb2_grpc.RegistryStub, model: str) -> Json | None:
    """What of the model should serve; None where nothing should."""
    found = await registry.ListDeployments(pb.ListDeploymentsRequest(), timeout=TIMEOUT_S)
    return next((read_deployment(each) for each in found.deployments if each.model == model), None)


async def deployed_versions(
    registry: registry_pb2_grpc.RegistryStub, deployment: Json
) -> frozenset[int]:
    """The numbers of the versions that a deployment's targets stand for."""
    request = pb.GetModelRequest(name=deployment["model"])
    model = await registry.GetModel(request, timeout=TIMEOUT_S)
    selectors = [str(target["version"]) for target in deployment["targets"]]
    return frozenset(
        model.aliases[each] if each in model.aliases else int(each) for each in selectors
    )


def read_model(model: pb.Model) -> Json:
    """A model as JSON."""
    return {
        "name": model.name,
        "task": model.task,
        "versions": list(model.versions),
        "aliases": dict(model.aliases),
    }


def read_version(version: pb.ModelVersion) -> Json:
    """A version as JSON."""
    return {
        "model": version.model,
        "version": version.version,
        "digest": version.digest,
        "description": version.description,
        "created_unix_ms": version.created_unix_ms,
        "manifest": json.loads(version.manifest_json),
        "files": [
            {"path": each.path, "digest": each.digest, "size_bytes": each.size_bytes}
            for each in version.files
        ],
    }


def read_deployment(deployment: pb.Deployment) -> Json:
    """A deployment as JSON."""
    return {
        "model": deployment.model,
        "revision": deployment.revision,
        "replicas": deployment.replicas,
        "may_page": deployment.may_page,
        "targets": [
            {"version": each.version, "weight": each.weight} for each in deployment.targets
        ],
    }


def render_targets(deployment: Json | None) -> str:
    """`1` or `1: 90 %, 2: 10 %`; a dash where nothing is deployed."""
    if deployment is None:
        return "-"
    targets = deployment["targets"]
    if len(targets) == 1:
        return str(targets[0]["version"])
    whole = sum(each["weight"] for each in targets) or 1
    return ", ".join(f"{each['version']}: {each['weight'] * 100 / whole:g} %" for each in targets)
