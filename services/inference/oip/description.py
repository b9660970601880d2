"""What the node says about itself and its models in the Open Inference Protocol: pure.

A model's shapes carry the axis of its rows themselves, so Triton's `max_batch_size` is 0, which
says just that; how rows are run together stands in the parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.pb import inference_pb2 as oip
from mesh.pb import model_config_pb2 as config
from services.inference.models.state import ModelStatus
from services.inference.models.table import LoadedModel
from services.inference.models.tensor_model import Signature, TensorSpec


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
        platform=signature.platform,
        inputs=describe(signature.inputs),
        outputs=describe(signature.outputs),
    )


def model_config(model: LoadedModel, signature: Signature) -> oip.ModelConfigResponse:
    """The configuration, as far as it applies here."""
    described = config.ModelConfig(
        name=model.name,
        platform=signature.platform,
        backend=model.backend,
        version_policy=config.ModelVersionPolicy(
            specific=config.ModelVersionPolicy.Specific(versions=[model.version])
        ),
        input=[
            config.ModelInput(name=s.name, data_type=_datatype(s), dims=s.shape)
            for s in signature.inputs
        ],
        output=[
            config.ModelOutput(name=s.name, data_type=_datatype(s), dims=s.shape)
            for s in signature.outputs
        ],
        parameters=_parameters(signature),
        model_transaction_policy=config.ModelTransactionPolicy(decoupled=signature.is_decoupled),
    )
    return oip.ModelConfigResponse(config=described)


def memory_usage(status: ModelStatus) -> oip.MemoryUsage:
    """What a version takes of the machine's memory."""
    return oip.MemoryUsage(type="CPU", id=0, byte_size=status.memory_bytes)


def _parameters(signature: Signature) -> Mapping[str, config.ModelParameter]:
    if signature.batching is None:
        return {}
    facts = {
        "max_batch_size": str(signature.batching.max_batch_size),
        "max_queue_delay_ms": f"{signature.batching.max_queue_delay_ms:g}",
    }
    return {name: config.ModelParameter(string_value=text) for name, text in facts.items()}


def _datatype(spec: TensorSpec) -> str:
    # Triton's configuration calls BYTES a string, and only there.
    return "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
