"""The system shared memory extension over gRPC."""

from __future__ import annotations

import grpc

from mesh.pb import inference_pb2 as oip
from services.gateway.caller import Caller, caller_from_metadata
from services.gateway.shared_memory import SharedMemory


class SharedMemoryServicer:
    """Methods of `inference.GRPCInferenceService`."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory

    async def SystemSharedMemoryStatus(
        self, request: oip.SystemSharedMemoryStatusRequest, context: grpc.aio.ServicerContext
    ) -> oip.SystemSharedMemoryStatusResponse:
        """What is registered."""
        answer = oip.SystemSharedMemoryStatusResponse()
        for name, region in self._memory.status(request.name, _caller(context)).items():
            answer.regions[name].name, answer.regions[name].key = name, region.key
            answer.regions[name].offset = region.offset
            answer.regions[name].byte_size = region.byte_size
        return answer

    async def SystemSharedMemoryRegister(
        self, request: oip.SystemSharedMemoryRegisterRequest, context: grpc.aio.ServicerContext
    ) -> oip.SystemSharedMemoryRegisterResponse:
        """Makes a part of a shared memory object known."""
        self._memory.register(
            request.name, request.key, request.offset, request.byte_size, _caller(context)
        )
        return oip.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: oip.SystemSharedMemoryUnregisterRequest, context: grpc.aio.ServicerContext
    ) -> oip.SystemSharedMemoryUnregisterResponse:
        """Forgets one region, or all."""
        self._memory.unregister(request.name, _caller(context))
        return oip.SystemSharedMemoryUnregisterResponse()


def _caller(context: grpc.aio.ServicerContext) -> Caller:
    return caller_from_metadata(context.invocation_metadata(), context)
