"""The registry's records as its messages."""

from __future__ import annotations

from mesh.pb import registry_pb2 as pb
from services.registry.records import DeploymentRecord, ModelRecord, VersionRecord


def render_model(model: ModelRecord) -> pb.Model:
    """A model."""
    return pb.Model(
        name=model.name, task=model.task, versions=model.versions, aliases=model.aliases
    )


def render_version(record: VersionRecord) -> pb.ModelVersion:
    """A version with its manifest and files."""
    files = [
        pb.ArtefactFile(path=file.path, digest=file.digest, size_bytes=file.size_bytes)
        for file in record.spec.files
    ]
    return pb.ModelVersion(
        model=record.model,
        version=record.spec.version,
        digest=record.spec.digest,
        manifest_json=record.spec.manifest.to_json().decode(),
        files=files,
        description=record.description,
        created_unix_ms=record.created_unix_ms,
    )


def render_deployment(record: DeploymentRecord, *, published: bool) -> pb.Deployment:
    """What was asked to serve."""
    targets = [
        pb.Target(version=str(target.selector), weight=target.weight) for target in record.targets
    ]
    return pb.Deployment(
        model=record.model,
        targets=targets,
        replicas=record.replicas,
        revision=record.revision,
        published=published,
        may_page=record.may_page,
    )
