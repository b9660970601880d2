"""Whose fault a failed run is: pure.

Engines fail alike for a bad request and for a bug. A request is at fault where the engine says so
of its inputs, and where its shapes break what the graph itself states: that axes of one name have
one length. That is looked at only after a run has failed, because many a graph that was exported
with careless names runs all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mesh.errors import InvalidArgument, RingmeshError
from services.inference.backends.backend import BackendFailed, GraphTensor, InputsRefused
from services.inference.batching.ragged import Tensors


def explain(error: BackendFailed, inputs: Sequence[GraphTensor], arrays: Tensors) -> RingmeshError:
    """The error to answer with."""
    contradiction = find_contradiction(inputs, arrays)
    if contradiction is not None:
        return contradiction
    if not isinstance(error, InputsRefused):
        return error
    field = f"inputs.{inputs[0].name}" if len(inputs) == 1 else "inputs"
    return InvalidArgument(f"{field}: the model refuses this: {error.message}", field=field)


def find_contradiction(inputs: Iterable[GraphTensor], arrays: Tensors) -> InvalidArgument | None:
    """The first axis whose length differs from another's of the same name."""
    seen: dict[str, tuple[str, int]] = {}
    for tensor in inputs:
        named = zip(tensor.axes, arrays[tensor.name].shape, strict=False)  # or none has a name
        for place, (axis, length) in enumerate(named):
            owner, expected = seen.setdefault(axis, (tensor.name, length))
            if axis and length != expected:
                field = f"inputs.{tensor.name}"
                return InvalidArgument(
                    f"{field}: axis {place} ({axis}) has length {length}, "
                    f"but in {owner!r} it has {expected}",
                    field=field,
                )
    return None
