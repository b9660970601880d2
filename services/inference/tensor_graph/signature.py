"""What a graph takes and gives, held against what the manifest says of it: pure.

Shapes are the graph's own, with -1 for an axis of any length. With `batching`, the first axis of
every input and output is the batch, so it must be free; a graph that fixes it is refused by the
name of the tensor, because rows of different callers could not be put together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from mesh.batching_options import BatchingOptions
from mesh.errors import FailedPrecondition
from services.inference.backends.backend import GraphTensor
from services.inference.models.tensor_model import Signature, TensorSpec
from services.inference.oip.request import show_shape


def make_signature(
    platform: str,
    inputs: Sequence[GraphTensor],
    outputs: Sequence[GraphTensor],
    *,
    rankless: Collection[str],
    batching: BatchingOptions | None,
    labels: Mapping[str, Sequence[str]],
    instances: int = 1,
) -> Signature:
    """The model's signature.

    Raises:
        FailedPrecondition: the graph and the manifest contradict each other.
    """
    for tensor in inputs:
        if tensor.name in rankless:
            raise FailedPrecondition(
                f"input {tensor.name!r} has no shape: the protocol needs its number of axes"
            )
    if batching is not None and not inputs:
        raise FailedPrecondition("batching: the graph has no inputs that could have rows")
    if batching is not None:
        _check_batch_axis("input", inputs, rankless)
        _check_batch_axis("output", outputs, rankless)
    _check_labels(outputs, labels)
    return Signature(
        platform=platform,
        inputs=_specs(inputs, {}),
        outputs=_specs(outputs, labels),
        batching=batching,
        instances=instances,
    )


def _specs(
    tensors: Iterable[GraphTensor], labels: Mapping[str, Sequence[str]]
) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(each.name, each.datatype, each.shape, tuple(labels.get(each.name, ())))
        for each in tensors
    )


def _check_batch_axis(kind: str, tensors: Iterable[GraphTensor], rankless: Collection[str]) -> None:
    for tensor in tensors:
        if tensor.name in rankless or tensor.shape[:1] == (-1,):
            continue
        shown = show_shape(tensor.shape)
        raise FailedPrecondition(
            f"batching: {kind} {tensor.name!r} of shape {shown} has no free first axis to batch "
            f"along; leave `batching` out of the manifest, or export the model with one"
        )


def _check_labels(outputs: Iterable[GraphTensor], labels: Mapping[str, Sequence[str]]) -> None:
    lengths = {each.name: each.shape[-1] if each.shape else 1 for each in outputs}
    for name, names in labels.items():
        if name not in lengths:
            known = ", ".join(lengths)
            raise FailedPrecondition(f"labels.{name}: there is no such output; known are {known}")
        if lengths[name] not in (-1, len(names)):
            raise FailedPrecondition(
                f"labels.{name}: {len(names)} labels for {lengths[name]} places"
            )
