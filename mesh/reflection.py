"""gRPC server reflection, v1 and v1alpha, over all descriptor pools of the process.

grpcio ships v1alpha only. The two versions differ in their package name and in nothing on the wire,
so one servicer answers both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.descriptor_pool import Default
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from mesh.pb.pool import inference_pool

V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
V1 = "grpc.reflection.v1.ServerReflection"


def add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Lets `server` describe `services` (full names) and itself."""
    servicer = ReflectionServicer([*services, V1, V1ALPHA], pool=_AllPools())
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (V1ALPHA, V1):
        generic = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        server.add_generic_rpc_handlers((generic,))


class _AllPools:
    """Looks into the Open Inference Protocol's pool first, then into the default one."""

    def __init__(self) -> None:
        self._pools: tuple[Any, ...] = (inference_pool, Default())

    def _find(self, method: str, *arguments: Any) -> Any:
        for pool in self._pools[:-1]:
            try:
                return getattr(pool, method)(*arguments)
            except KeyError:
                continue
        return getattr(self._pools[-1], method)(*arguments)

    def FindFileByName(self, name: str) -> Any:  # noqa: N802 - protobuf's name
        return self._find("FindFileByName", name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - as above
        return self._find("FindFileContainingSymbol", symbol)

    def FindMessageTypeByName(self, name: str) -> Any:  # noqa: N802 - as above
        return self._find("FindMessageTypeByName", name)

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:  # noqa: N802 - as above
        return self._find("FindExtensionByNumber", message, number)

    def FindAllExtensions(self, message: Any) -> Any:  # noqa: N802 - as above
        return self._find("FindAllExtensions", message)
