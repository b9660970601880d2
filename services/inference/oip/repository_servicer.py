"""The model repository extension on the node: load, unload, and the state of every version."""

from __future__ import annotations

import grpc

from mesh.pb import inference_pb2 as oip
from mesh.repository_request import check_repository_request
from services.inference.models.choice import requested_version
from services.inference.models.repository import Repository
from services.inference.models.state import ModelState

TRITON_STATES = {
    ModelState.UNAVAILABLE: "UNAVAILABLE",
    ModelState.LOADING: "LOADING",
    ModelState.READY: "READY",
    ModelState.DRAINING: "UNLOADING",
    ModelState.UNLOADED: "UNAVAILABLE",
}
"""What Triton calls the states, in its repository index."""


class RepositoryServicer:
    """The methods of `inference.GRPCInferenceService` that concern the repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def RepositoryIndex(
        self, request: oip.RepositoryIndexRequest, context: grpc.aio.ServicerContext
    ) -> oip.RepositoryIndexResponse:
        """Every version that this node knows, with its state."""
        del context
        entries = (
            oip.RepositoryIndexResponse.ModelIndex(
                name=status.model,
                version=str(status.version),
                state=TRITON_STATES[status.state],
                reason=status.reason,
            )
            for status in self._repository.statuses()
            if status.state is ModelState.READY or not request.ready
        )
        return oip.RepositoryIndexResponse(models=entries)

    async def RepositoryModelLoad(
        self, request: oip.RepositoryModelLoadRequest, context: grpc.aio.ServicerContext
    ) -> oip.RepositoryModelLoadResponse:
        """Loads what was unloaded by hand."""
        del context
        check_repository_request(request)
        await self._repository.load(*requested_version(request.model_name, "", None))
        return oip.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: oip.RepositoryModelUnloadRequest, context: grpc.aio.ServicerContext
    ) -> oip.RepositoryModelUnloadResponse:
        """Takes a model out of service on this node."""
        del context
        check_repository_request(request)
        await self._repository.unload(*requested_version(request.model_name, "", None))
        return oip.RepositoryModelUnloadResponse()
