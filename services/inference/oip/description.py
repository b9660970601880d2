"""What the node says about its models in the Open Inference Protocol: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

from mesh.pb import inference_pb2 as oip
from services.inference.backends.backend import Device
from services.inference.models.loaded_model import LoadedModel
from services.inference.models.state import ModelStatus
from services.inference.models.tensor_model import Signature, TensorSpec

_PLATFORMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "onnxruntime": "onnxruntime_onnx",
        "openvino": "openvino",
        "tensorrt": "tensorrt_plan",
        "torch": "pytorch_libtorch",
    }
)
"""Triton's names for what runs on a backend."""


@runtime_checkable
class OnDevice(Protocol):
    """A loaded version that says where it computes."""

    @property
    def device(self) -> Device:
        """Where."""


def platform_of(model: LoadedModel, signature: Signature) -> str:
    """What Triton calls the engine that the model is on now, where it has a name for it."""
    return _PLATFORMS.get(model.backend, signature.platform)


def device_of(model: LoadedModel | None) -> Device:
    """Where a model computes; one that does not say so needs nothing but the CPU."""
    return model.device if isinstance(model, OnDevice) else Device.CPU


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


def memory_usage(status: ModelStatus, model: LoadedModel | None) -> oip.MemoryUsage:
    """What a version takes of the machine's memory."""
    return oip.MemoryUsage(type=device_of(model).name, id=0, byte_size=status.memory_bytes)
