"""`ringmesh.registry.v1.Registry`: checks what is asked, calls the registry, renders."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence

import grpc

from mesh.errors import InvalidArgument
from mesh.pb import registry_pb2 as pb
from mesh.pb import registry_pb2_grpc
from mesh.reference import alias_name, model_name, version_selector
from mesh.server import ServiceBinding
from services.registry.artefact import make_artefact
from services.registry.records import DeploymentRecord, Target
from services.registry.registry import Registry
from services.registry.render import render_deployment, render_model, render_version

Context = grpc.aio.ServicerContext

MAX_DIGESTS = 4096
MAX_DESCRIPTION_CHARS = 4096
_DIGEST = re.compile(r"[0-9a-f]{64}")


class RegistryServicer(registry_pb2_grpc.RegistryServicer):
    """The registry over gRPC."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def UploadBlob(
        self, request_iterator: AsyncIterator[pb.UploadBlobRequest], context: Context
    ) -> pb.Blob:
        """Stores one file of an artefact."""
        del context
        first = await anext(aiter(request_iterator), pb.UploadBlobRequest())
        digest = _digest(first.digest, "digest")
        size = await self._registry.store_blob(digest, _chunks(first, request_iterator))
        return pb.Blob(digest=digest, size_bytes=size)

    async def ListBlobs(
        self, request: pb.ListBlobsRequest, context: Context
    ) -> pb.ListBlobsResponse:
        """Says which blobs need not be sent."""
        del context
        if len(request.digests) > MAX_DIGESTS:
            raise InvalidArgument(f"at most {MAX_DIGESTS} digests at once", field="digests")
        digests = [_digest(each, f"digests[{i}]") for i, each in enumerate(request.digests)]
        sizes = await self._registry.blob_sizes(digests)
        blobs = [pb.Blob(digest=digest, size_bytes=size) for digest, size in sizes.items()]
        return pb.ListBlobsResponse(blobs=blobs)

    async def CreateModelVersion(
        self, request: pb.CreateModelVersionRequest, context: Context
    ) -> pb.ModelVersion:
        """Registers an artefact."""
        del context
        if len(request.description) > MAX_DESCRIPTION_CHARS:
            raise InvalidArgument(
                f"a description has at most {MAX_DESCRIPTION_CHARS} characters", field="description"
            )
        files = ((file.path, file.digest, file.size_bytes) for file in request.files)
        artefact = make_artefact(request.manifest_json, files)
        return render_version(await self._registry.create_version(artefact, request.description))

    async def GetModelVersion(
        self, request: pb.GetModelVersionRequest, context: Context
    ) -> pb.ModelVersion:
        """One version."""
        del context
        selector = version_selector(request.version) if request.version else None
        return render_version(await self._registry.version(model_name(request.model), selector))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        """One model."""
        del context
        return render_model(await self._registry.model(model_name(request.name, field="name")))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """All models."""
        del request, context
        models = await self._registry.models()
        return pb.ListModelsResponse(models=[render_model(model) for model in models])

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.Model:
        """Points an alias at a version."""
        del context
        model, alias = model_name(request.model), alias_name(request.alias)
        if request.version == 0:
            raise InvalidArgument("a version is missing", field="version")
        return render_model(await self._registry.set_alias(model, alias, request.version))

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Context) -> pb.Model:
        """Forgets an alias."""
        del context
        model, alias = model_name(request.model), alias_name(request.alias)
        return render_model(await self._registry.delete_alias(model, alias))

    async def SetDeployment(
        self, request: pb.SetDeploymentRequest, context: Context
    ) -> pb.Deployment:
        """Says what should serve."""
        del context
        model, targets = model_name(request.model), _targets(request.targets)
        record = await self._registry.set_deployment(
            model, targets, request.replicas, may_page=request.may_page
        )
        return self._rendered(record)

    async def GetDeployment(
        self, request: pb.GetDeploymentRequest, context: Context
    ) -> pb.Deployment:
        """What of a model should serve."""
        del context
        return self._rendered(await self._registry.deployment(model_name(request.model)))

    async def ListDeployments(
        self, request: pb.ListDeploymentsRequest, context: Context
    ) -> pb.ListDeploymentsResponse:
        """All that should serve."""
        del request, context
        found = await self._registry.deployments()
        return pb.ListDeploymentsResponse(deployments=[self._rendered(each) for each in found])

    async def DeleteDeployment(
        self, request: pb.DeleteDeploymentRequest, context: Context
    ) -> pb.DeleteDeploymentResponse:
        """Says that nothing of a model should serve."""
        del context
        await self._registry.delete_deployment(model_name(request.model))
        return pb.DeleteDeploymentResponse()

    def _rendered(self, record: DeploymentRecord) -> pb.Deployment:
        return render_deployment(record, published=self._registry.is_published(record))


def registry_binding(servicer: RegistryServicer) -> ServiceBinding:
    """The servicer under its name."""
    return ServiceBinding(
        "ringmesh.registry.v1.Registry",
        registry_pb2_grpc.add_RegistryServicer_to_server,
        servicer,
    )


def _digest(text: str, field: str) -> str:
    if _DIGEST.fullmatch(text) is None:
        raise InvalidArgument(
            "a digest is the SHA-256 of the content in 64 lower-case hexadecimal digits",
            field=field,
        )
    return text


async def _chunks(
    first: pb.UploadBlobRequest, rest: AsyncIterator[pb.UploadBlobRequest]
) -> AsyncIterator[bytes]:
    yield first.chunk
    async for request in rest:
        if request.digest not in ("", first.digest):
            raise InvalidArgument("one upload is of one blob", field="digest")
        yield request.chunk


def _targets(targets: Sequence[pb.Target]) -> list[Target]:
    return [
        Target(version_selector(target.version, field=f"targets[{index}].version"), target.weight)
        for index, target in enumerate(targets)
    ]
