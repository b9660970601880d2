"""What the node says about its models in the Open Inference Protocol: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from mesh.pb import inference_pb2 as oip
from services.inference.models.state import ModelStatus
from services.inference.models.table import LoadedModel
from services.inference.models.tensor_model import Signature, TensorSpec

_PLATFORMS: Final[Mapping[str, str]] = MappingProxyType(
    {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan", "torch": "pytorch_libtorch"}
)
"""Triton's names for what runs on a backend."""

_ON_GPU: Final = frozenset({"tensorrt"})


def platform_of(model: LoadedModel, signature: Signature) -> str:
    """What Triton calls the engine that the model is on now, where it has a name for it."""
    return _PLATFORMS.get(model.backend, signature.platform)


def is_on_gpu(backend: str) -> bool:
    """Whether a backend computes on a GPU and nowhere else."""
    return backend in _ON_GPU


def model_metadata(
    model: LoadedModel, signature: Signature, versions: Iterable[int]
) -> oip.ModelMetadataResponse:
    """Inputs and outputs, and the versions that this node has ready."""
    tensor = oip.ModelMetadataResponse.TensorMetadata

    def describe(specs: Iterable[TensorSpec]) -> list[oip.ModelMetadataResponse.TensorMetadata]:
        return [tensor(name=s.name, datatype=s.datatype, shape=s.shape) for s in specs]

    return oip.ModelMetadataResponse(
        name=model.name,
        versions=[str(version) for version in sorted(versions)],
        platform=platform_of(model, signature),
        inputs=describe(signature.inputs),
        outputs=describe(signature.outputs),
    )


def memory_usage(status: ModelStatus) -> oip.MemoryUsage:
    """What a version takes of the machine's memory."""
    kind = "GPU" if is_on_gpu(status.backend) else "CPU"
    return oip.MemoryUsage(type=kind, id=0, byte_size=status.memory_bytes)
