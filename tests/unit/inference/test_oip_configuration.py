"""A model's configuration in Triton's form: rows, batching, instances, labels and their absence."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from mesh.batching_options import BatchingOptions, QueuePolicy
from mesh.pb import model_config_pb2 as config
from services.inference.backends.backend import Device
from services.inference.models.state import ModelStatus
from services.inference.models.tensor_model import Signature, TensorSpec
from services.inference.oip.configuration import model_config
from services.inference.oip.description import memory_usage
from tests.integration.echo_model import EchoModel


@dataclass
class OnDevice(EchoModel):
    device: Device = Device.CPU


INPUT = TensorSpec("text", "BYTES", (-1,))
OUTPUT = TensorSpec("scores", "FP32", (-1, 2), ("no", "yes"))


def described(signature: Signature, backend: str = "onnxruntime") -> config.ModelConfig:
    return model_config(EchoModel("m", signature, 3, backend), signature).config


def test_a_batched_model_has_dims_of_one_row() -> None:
    batching = BatchingOptions(
        max_batch_size=16,
        max_queue_delay_ms=2.5,
        preferred_batch_sizes=(4, 8),
        priority_levels=2,
        default_priority_level=2,
        default_queue_policy=QueuePolicy(default_timeout_ms=1.5, timeout_action="DELAY"),
        priority_queue_policy={1: QueuePolicy(max_queue_rows=7, allow_timeout_override=False)},
    )
    made = described(Signature("p", (INPUT,), (OUTPUT,), batching=batching, instances=2))
    assert (made.name, made.max_batch_size) == ("m", 16)
    assert list(made.version_policy.specific.versions) == [3]
    assert (list(made.input[0].dims), list(made.output[0].dims)) == ([], [2])
    assert made.input[0].data_type == config.TYPE_STRING
    queue = made.dynamic_batching
    assert (list(queue.preferred_batch_size), queue.max_queue_delay_microseconds) == ([4, 8], 2500)
    assert (queue.priority_levels, queue.default_priority_level) == (2, 2)
    default, own = queue.default_queue_policy, queue.priority_queue_policy[1]
    assert (default.timeout_action, default.default_timeout_microseconds) == (1, 1500)
    assert default.allow_timeout_override
    assert (own.max_queue_size, own.allow_timeout_override) == (7, False)
    (group,) = made.instance_group
    assert (group.kind, group.count) == (config.ModelInstanceGroup.KIND_CPU, 2)
    assert json.loads(made.parameters["labels.scores"].string_value) == ["no", "yes"]


def test_a_model_without_batching_has_whole_shapes() -> None:
    made = described(Signature("p", (INPUT,), (TensorSpec("y", "FP32", (-1, 2)),)))
    assert made.max_batch_size == 0
    assert not made.HasField("dynamic_batching")
    assert list(made.output[0].dims) == [-1, 2]
    assert not made.parameters
    assert not made.model_transaction_policy.decoupled


@pytest.mark.parametrize(
    ("backend", "platform"),
    [("onnxruntime", "onnxruntime_onnx"), ("tensorrt", "tensorrt_plan"), ("echo", "p")],
)
def test_the_platform_is_that_of_the_backend_in_use(backend: str, platform: str) -> None:
    made = described(Signature("p"), backend)
    assert (made.backend, made.platform) == (backend, platform)


@pytest.mark.parametrize("device", Device)
def test_the_device_is_that_of_the_model(device: Device) -> None:
    model = OnDevice("m", Signature("p"), device=device)
    (group,) = model_config(model, model.signature).config.instance_group
    assert group.kind == config.ModelInstanceGroup.Kind.Value(f"KIND_{device.name}")
    usage = memory_usage(ModelStatus("m", 3, memory_bytes=9), model)
    assert (usage.type, usage.byte_size) == (device.name, 9)


def test_what_does_not_say_where_it_computes_needs_the_cpu_alone() -> None:
    assert memory_usage(ModelStatus("m", 3), EchoModel("m", Signature("p"))).type == "CPU"
    assert memory_usage(ModelStatus("m", 3), None).type == "CPU"
