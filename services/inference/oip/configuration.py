"""A model's configuration in Triton's form, as far as it applies here: pure.

A model whose rows are batched has a `max_batch_size`, and its dims are those of one row; any other
has 0, and its dims are whole shapes. Triton keeps labels in files; here they stand in the
parameters, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from mesh.batching_options import BatchingOptions, QueuePolicy
from mesh.pb import inference_pb2 as oip
from mesh.pb import model_config_pb2 as config
from services.inference.models.loaded_model import LoadedModel
from services.inference.models.tensor_model import Signature, TensorSpec
from services.inference.oip.description import device_of, platform_of

US_PER_MS = 1000


def model_config(model: LoadedModel, signature: Signature) -> oip.ModelConfigResponse:
    """The configuration of a loaded version."""
    batching = signature.batching
    described = config.ModelConfig(
        name=model.name,
        platform=platform_of(model, signature),
        backend=model.backend,
        version_policy=config.ModelVersionPolicy(
            specific=config.ModelVersionPolicy.Specific(versions=[model.version])
        ),
        max_batch_size=batching.max_batch_size if batching else 0,
        input=[
            config.ModelInput(name=s.name, data_type=_datatype(s), dims=_dims(s, signature))
            for s in signature.inputs
        ],
        output=[
            config.ModelOutput(name=s.name, data_type=_datatype(s), dims=_dims(s, signature))
            for s in signature.outputs
        ],
        dynamic_batching=dynamic_batching(batching) if batching else None,
        instance_group=[_instance_group(model, signature)],
        parameters=_labels(signature.outputs),
        model_transaction_policy=config.ModelTransactionPolicy(decoupled=signature.is_decoupled),
    )
    return oip.ModelConfigResponse(config=described)


def dynamic_batching(options: BatchingOptions) -> config.ModelDynamicBatching:
    """How the queue forms batches."""
    policies = {level: _policy(each) for level, each in options.priority_queue_policy.items()}
    return config.ModelDynamicBatching(
        preferred_batch_size=options.preferred_batch_sizes,
        max_queue_delay_microseconds=_microseconds(options.max_queue_delay_ms),
        priority_levels=options.priority_levels,
        default_priority_level=options.default_priority_level,
        default_queue_policy=_policy(options.default_queue_policy),
        priority_queue_policy=policies,
    )


def _policy(policy: QueuePolicy) -> config.ModelQueuePolicy:
    return config.ModelQueuePolicy(
        timeout_action=policy.timeout_action,
        default_timeout_microseconds=_microseconds(policy.default_timeout_ms),
        allow_timeout_override=policy.allow_timeout_override,
        max_queue_size=policy.max_queue_rows,
    )


def _instance_group(model: LoadedModel, signature: Signature) -> config.ModelInstanceGroup:
    kind = f"KIND_{device_of(model).name}"
    return config.ModelInstanceGroup(name=model.name, kind=kind, count=signature.instances)


def _labels(outputs: Iterable[TensorSpec]) -> Mapping[str, config.ModelParameter]:
    return {
        f"labels.{spec.name}": config.ModelParameter(string_value=json.dumps(spec.labels))
        for spec in outputs
        if spec.labels
    }


def _dims(spec: TensorSpec, signature: Signature) -> Sequence[int]:
    return spec.shape if signature.batching is None else spec.shape[1:]


def _microseconds(milliseconds: float) -> int:
    return round(milliseconds * US_PER_MS)


def _datatype(spec: TensorSpec) -> str:
    # Triton's configuration calls BYTES a string, and only there.
    return "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
