"""Rows made of named tensors: cut out of a request, stacked to a batch, split and joined again.

All tensors of a request have the same number of rows in their first axis. A row is a slice of each,
still with that axis, and runs with rows whose tensors have the same names, datatypes and shapes.
Axes that the model declares ragged are padded first and cut back afterwards (see `ragged`).

`join(split(stack(rows)))` of a model that gives back what it gets is what `cut` was given. It knows
no engine; `stacked` makes a batcher's `Run` of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mesh.errors import FailedPrecondition
from mesh.tensor import Array
from services.inference.batching.ragged import RaggedAxis, Tensors, refuse
from services.inference.batching.run import Item, Ran, Run


@dataclass(frozen=True, slots=True)
class TensorRow:
    """A row as it is stacked, and how long its ragged axes were before they were padded."""

    tensors: Tensors
    lengths: tuple[int, ...] = ()


def count_rows(shapes: Mapping[str, Sequence[int]]) -> int:
    """How many rows tensors of these shapes have, by their names.

    It costs nothing, and should come first: without elements there may be any number of rows.

    Raises:
        InvalidArgument: they do not agree on it.
    """
    first, expected = "", -1
    for name, shape in shapes.items():
        if not shape:
            raise refuse(name, "has no axis of rows")
        if not first:
            first, expected = name, shape[0]
        if shape[0] != expected:
            raise refuse(name, f"has {shape[0]} rows, but inputs.{first} has {expected}")
    return expected


def cut(tensors: Tensors, ragged: Sequence[RaggedAxis] = ()) -> list[Item[TensorRow]]:
    """The rows of a request, for a batcher.

    Raises:
        InvalidArgument: the tensors do not agree on how many rows there are, or on the length of a
            ragged axis; or that is more than the model takes.
    """
    count = count_rows({name: array.shape for name, array in tensors.items()})
    lengths = tuple(axis.length_in(tensors) for axis in ragged)
    for axis, length in zip(ragged, lengths, strict=True):
        tensors = axis.pad(tensors, length)
    key, width = _key_of(tensors), _width_of(tensors)
    rows = ({name: array[n : n + 1] for name, array in tensors.items()} for n in range(count))
    return [Item(TensorRow(row, lengths), key, width) for row in rows]


def stack(rows: Sequence[TensorRow]) -> Tensors:
    """One batch of rows that have the same key."""
    if len(rows) == 1:
        return rows[0].tensors
    return {name: np.concatenate([row.tensors[name] for row in rows]) for name in rows[0].tensors}


def split(
    outputs: Tensors, rows: Sequence[TensorRow], ragged: Sequence[RaggedAxis] = ()
) -> list[Tensors]:
    """Each row's own part of what a batch gave; views.

    Raises:
        FailedPrecondition: an output has no such axis, so that nobody could say whose is what.
    """
    cuts = {name: _cuts_of(name, ragged) for name in outputs}
    for name, array in outputs.items():
        _check_axis(name, array, 0, len(rows))
        for axis, number in cuts[name]:
            _check_axis(name, array, axis, ragged[number].padded_length(rows[0].lengths[number]))
    return [
        {name: _part(array, place, row, cuts[name]) for name, array in outputs.items()}
        for place, row in enumerate(rows)
    ]


def join(parts: Sequence[Tensors]) -> Tensors:
    """A request's outputs from those of its rows; there must be one at least."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def stacked(
    infer: Callable[[Tensors], Tensors], ragged: Sequence[RaggedAxis] = ()
) -> Run[TensorRow, Tensors]:
    """What a batcher runs, of an engine that computes a batch."""

    def run(rows: Sequence[TensorRow], _key: Hashable) -> Ran[Tensors]:
        began_ns = time.monotonic_ns()
        batch = stack(rows)
        stacked_ns = time.monotonic_ns()
        outputs = infer(batch)
        inferred_ns = time.monotonic_ns()
        results = split(outputs, rows, ragged)
        return Ran(results, stacked_ns - began_ns, time.monotonic_ns() - inferred_ns)

    return run


def _key_of(tensors: Tensors) -> Hashable:
    described = ((name, array.dtype.name, array.shape[1:]) for name, array in tensors.items())
    return tuple(sorted(described))


def _width_of(tensors: Tensors) -> int:
    """Elements of one row, of all its tensors."""
    return sum(int(np.prod(array.shape[1:], dtype=np.int64)) for array in tensors.values())


def _cuts_of(output: str, ragged: Sequence[RaggedAxis]) -> list[tuple[int, int]]:
    """Where an output has ragged axes, and which."""
    there = enumerate(ragged)
    return [(axis.outputs[output], number) for number, axis in there if output in axis.outputs]


def _part(array: Array, place: int, row: TensorRow, cuts: Sequence[tuple[int, int]]) -> Array:
    inside = [slice(place, place + 1), *[slice(None)] * (array.ndim - 1)]
    for axis, number in cuts:
        inside[axis] = slice(row.lengths[number])
    part: Array = array[tuple(inside)]
    return part


def _check_axis(output: str, array: Array, axis: int, length: int) -> None:
    if array.ndim <= axis or array.shape[axis] != length:
        raise FailedPrecondition(
            f"the model's output '{output}' has the shape {list(array.shape)}, "
            f"but its axis {axis} must be {length} long"
        )
