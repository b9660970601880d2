"""The Open Inference Protocol over gRPC: each method asks the dataplane and hands on its answer.

What the mesh does not do (shared memory, loading by hand, ...) answers UNIMPLEMENTED,
by name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NoReturn, TypeVar

import grpc

from mesh.errors import RingmeshError, Unimplemented
from mesh.pb import inference_pb2 as oip
from services.gateway.caller import Caller, caller_from_metadata
from services.gateway.dataplane import Dataplane
from services.gateway.node_client import Answer
from services.gateway.ordered import answer_in_order

SERVICE = "inference.GRPCInferenceService"
STREAM_DEPTH = 16
"""Requests of one stream that are under way at once; their answers keep the requests' order."""

GRPC_ERROR_HEADER = "triton_grpc_error"
"""A client that sends `true` wants the first failure to end the stream with its status."""

FINAL_RESPONSE = "triton_final_response"

M = TypeVar("M")

_NOT_OFFERED = (
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
)


class OipServicer:
    """Serves `inference.GRPCInferenceService`."""

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane

    def __getattr__(self, name: str) -> Any:
        if name in _NOT_OFFERED:
            return _not_offered(name)
        raise AttributeError(name)

    async def ServerLive(
        self, request: oip.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> oip.ServerLiveResponse:
        """The process answers."""
        del request, context
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: oip.ServerReadyRequest, context: grpc.aio.ServicerContext
    ) -> oip.ServerReadyResponse:
        """The process knows what is deployed: it serves nothing before it does."""
        del request, context
        return oip.ServerReadyResponse(ready=True)

    async def ServerMetadata(
        self, request: oip.ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> oip.ServerMetadataResponse:
        """Name, version and extensions."""
        del request, context
        return self._dataplane.server_metadata()

    async def ModelReady(
        self, request: oip.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelReadyResponse:
        """Whether a node would answer for the model."""
        ready = await self._dataplane.is_ready(request.name, request.version, _caller(context))
        return oip.ModelReadyResponse(ready=ready)

    async def ModelMetadata(
        self, request: oip.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelMetadataResponse:
        """The model's inputs and outputs."""
        answer = await self._dataplane.metadata(request.name, request.version, _caller(context))
        return await _hand_on(answer, context)

    async def ModelConfig(
        self, request: oip.ModelConfigRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelConfigResponse:
        """The model's configuration."""
        answer = await self._dataplane.config(request.name, request.version, _caller(context))
        return await _hand_on(answer, context)

    async def ModelInfer(
        self, request: oip.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelInferResponse:
        """Runs a model."""
        answer = await self._dataplane.infer(request, _caller(context))
        return await _hand_on(answer, context)

    async def ModelStreamInfer(
        self,
        request_iterator: AsyncIterator[oip.ModelInferRequest],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        """Runs a model for each message; a failure is told in its place and ends nothing."""
        metadata = dict(context.invocation_metadata() or ())
        ends_at_failure = metadata.get(GRPC_ERROR_HEADER) == "true"
        caller = _caller(context)

        async def respond(request: oip.ModelInferRequest) -> oip.ModelStreamInferResponse:
            try:
                answer = await self._dataplane.infer(request, caller)
            except RingmeshError as error:
                if ends_at_failure:
                    raise
                return _failure(request.id, error)
            answer.message.parameters[FINAL_RESPONSE].bool_param = True
            return oip.ModelStreamInferResponse(infer_response=answer.message)

        async for response in answer_in_order(request_iterator, respond, depth=STREAM_DEPTH):
            yield response

    async def ModelStatistics(
        self, request: oip.ModelStatisticsRequest, context: grpc.aio.ServicerContext
    ) -> oip.ModelStatisticsResponse:
        """Counts and durations over all nodes."""
        del context
        return await self._dataplane.statistics(request.name, request.version)

    async def RepositoryIndex(
        self, request: oip.RepositoryIndexRequest, context: grpc.aio.ServicerContext
    ) -> oip.RepositoryIndexResponse:
        """Every deployed version with its state."""
        del context
        return self._dataplane.index(ready_only=request.ready)


def _caller(context: grpc.aio.ServicerContext) -> Caller:
    return caller_from_metadata(context.invocation_metadata(), context)


async def _hand_on(answer: Answer[M], context: grpc.aio.ServicerContext) -> M:
    await context.send_initial_metadata(tuple(answer.receipt.items()))
    return answer.message


def _failure(request_id: str, error: RingmeshError) -> oip.ModelStreamInferResponse:
    # The id tells the client which of its requests failed.
    response = oip.ModelInferResponse(id=request_id)
    return oip.ModelStreamInferResponse(error_message=error.message, infer_response=response)


def _not_offered(method: str) -> Any:
    async def refuse(_request: Any, _context: grpc.aio.ServicerContext) -> NoReturn:
        raise Unimplemented(f"{method} is not offered by this server")

    return refuse
