"""What a server of the Open Inference Protocol says of itself, the same on nodes and gateways.

Triton names its extensions, and clients look for the names. An extension that consists of methods
is offered by whoever has all of them, so that the list cannot differ from the truth; what an
extension asks of a method that everybody has is stated here. A method that a server does not have
answers UNIMPLEMENTED, by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata
from types import MappingProxyType
from typing import Any, Final, NoReturn

import grpc

from mesh.errors import Unimplemented
from mesh.pb import inference_pb2 as oip

SERVER_NAME: Final = "ringmesh"
SERVICE: Final = "inference.GRPCInferenceService"

_METHODS: Final = frozenset(
    method.name for method in oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
)
_BY_METHODS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "model_repository": (
            "RepositoryIndex",
            "RepositoryModelLoad",
            "RepositoryModelUnload",
        ),
        "model_repository(unload_dependents)": ("RepositoryModelUnload",),
        "model_configuration": ("ModelConfig",),
        "system_shared_memory": (
            "SystemSharedMemoryStatus",
            "SystemSharedMemoryRegister",
            "SystemSharedMemoryUnregister",
        ),
        "cuda_shared_memory": (
            "CudaSharedMemoryStatus",
            "CudaSharedMemoryRegister",
            "CudaSharedMemoryUnregister",
        ),
        "statistics": ("ModelStatistics",),
        "trace": ("TraceSetting",),
        "logging": ("LogSettings",),
    }
)

INFER_EXTENSIONS: Final = (
    "classification",
    "parameters",
    "schedule_policy",
    "sequence",
    "sequence(string_id)",
)
"""What ModelInfer does beyond the protocol, wherever it is asked."""
REST_EXTENSIONS: Final = ("binary_tensor_data",)
"""What comes with REST."""


class OipMethods:
    """What every servicer of the protocol answers alike, its lack of a method among it."""

    async def ServerLive(
        self, request: oip.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> oip.ServerLiveResponse:
        """The process answers."""
        del request, context
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: oip.ServerReadyRequest, context: grpc.aio.ServicerContext
    ) -> oip.ServerReadyResponse:
        """The process takes calls: it listens once it can; models have states of their own."""
        del request, context
        return oip.ServerReadyResponse(ready=True)

    def __getattr__(self, name: str) -> Any:
        if name in _METHODS:
            return _refusal(name)
        raise AttributeError(name)


def method_extensions(servicer: type[OipMethods]) -> tuple[str, ...]:
    """The extensions all of whose methods a servicer has."""
    return tuple(
        extension
        for extension, methods in _BY_METHODS.items()
        if all(hasattr(servicer, method) for method in methods)
    )


def server_metadata(extensions: Iterable[str]) -> oip.ServerMetadataResponse:
    """Name, version and extensions of this process."""
    return oip.ServerMetadataResponse(
        name=SERVER_NAME, version=_package_version(), extensions=sorted(extensions)
    )


def _package_version() -> str:
    try:
        return metadata.version("ringmesh")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "0.0.0+source"


def _refusal(method: str) -> Any:
    async def refuse(_request: Any, _context: grpc.aio.ServicerContext) -> NoReturn:
        raise Unimplemented(f"{method} is not offered by this server")

    return refuse
