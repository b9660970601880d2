"""The axes that a manifest declares ragged, held against the graph: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mesh.errors import FailedPrecondition
from mesh.ragged_options import Pad, RaggedAxisOptions
from services.inference.backends.backend import GraphTensor
from services.inference.batching.ragged import RaggedAxis


def make_ragged(
    declared: Iterable[RaggedAxisOptions],
    inputs: Sequence[GraphTensor],
    outputs: Sequence[GraphTensor],
) -> tuple[RaggedAxis, ...]:
    """The axes as the batcher takes them.

    Raises:
        FailedPrecondition: the graph has no such input, output or axis, or has its length fixed.
    """
    return tuple(_make(options, inputs, outputs) for options in declared)


def _make(
    options: RaggedAxisOptions, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]
) -> RaggedAxis:
    _check("input", options.inputs, inputs)
    _check("output", options.outputs, outputs)
    for name in options.pads.keys() - options.inputs.keys():
        raise FailedPrecondition(f"batching.ragged: {name!r} has a pad, but no ragged axis")
    texts: dict[str, Pad] = {tensor.name: "" for tensor in inputs if tensor.datatype == "BYTES"}
    return RaggedAxis(
        inputs=options.inputs,
        outputs=options.outputs,
        pads={**texts, **options.pads},
        longest=options.longest,
    )


def _check(kind: str, places: Mapping[str, int], tensors: Iterable[GraphTensor]) -> None:
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    for name, place in places.items():
        if name not in shapes:
            raise FailedPrecondition(f"batching.ragged: there is no {kind} {name!r}")
        if shapes[name][place : place + 1] != (-1,):
            raise FailedPrecondition(
                f"batching.ragged: axis {place} of {kind} {name!r} is not one of any length"
            )
