"""Ragged axes: rows of different lengths are padded to buckets, and their results cut back.

The bucket follows from the row's own length, so that a row is computed in the same shape alone and
in company. What padding means to the model is the model's to say: it declares which axes may be
ragged, and what they are padded with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from mesh.errors import InvalidArgument
from mesh.tensor import Array

Tensors = Mapping[str, Array]
Pad = bool | int | float | bytes | str

SMALLEST_STEP = 8
STEPS_PER_OCTAVE = 4
MOST_OUT_OF_NOTHING = 1 << 24
"""Elements that a tensor without any may be padded to: its other axes may have any length."""


@dataclass(frozen=True, slots=True)
class RaggedAxis:
    """An axis whose length may differ from row to row: where the inputs and outputs have it.

    Axes count that of the rows, which is 0. `pads` has what an input is padded with, where that is
    not zero (for BYTES, empty), as its array holds it.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    pads: Mapping[str, Pad] = field(default_factory=lambda: MappingProxyType({}))
    longest: int | None = None

    def length_in(self, tensors: Tensors) -> int:
        """How long it is in a request; `InvalidArgument` if that is not the same in all inputs."""
        there = {name: place for name, place in self.inputs.items() if name in tensors}
        lengths = {name: tensors[name].shape[place] for name, place in there.items()}
        first, expected = next(iter(lengths.items()), ("", 0))
        for name, length in lengths.items():
            long = f"axis {there[name]} is {length} long"
            if length != expected:
                raise refuse(name, f"{long}, but that of inputs.{first} is {expected}")
            if self.longest is not None and length > self.longest:
                raise refuse(name, f"{long}, more than {self.longest}")
        return expected

    def padded_length(self, length: int) -> int:
        """How long it is once it is padded."""
        return bucket_of(length, self.longest)

    def pad(self, tensors: Tensors, length: int) -> Tensors:
        """The tensors of a request, those that have this axis padded.

        Raises:
            InvalidArgument: there are no elements, and would be too many.
        """
        size = self.padded_length(length)
        return {
            name: _padded(name, array, self.inputs[name], size, self.pads.get(name))
            if name in self.inputs
            else array
            for name, array in tensors.items()
        }


def bucket_of(length: int, longest: int | None = None) -> int:
    """What a ragged axis of this length is padded to: less than a quarter more, or less than 8."""
    octave = max(length - 1, 0).bit_length()
    step = max(SMALLEST_STEP, (1 << octave) // (2 * STEPS_PER_OCTAVE))
    padded = max(1, -(-length // step)) * step
    return padded if longest is None else min(padded, longest)


def refuse(name: str, problem: str) -> InvalidArgument:
    """What is wrong with an input, by its name."""
    place = f"inputs.{name}"
    return InvalidArgument(f"{place}: {problem}", field=place)


def _padded(name: str, array: Array, axis: int, size: int, pad: Pad | None) -> Array:
    if array.shape[axis] == size:
        return array
    fill = (b"" if array.dtype == object else 0) if pad is None else pad
    shape = (*array.shape[:axis], size, *array.shape[axis + 1 :])
    if not array.size and math.prod(shape) > MOST_OUT_OF_NOTHING:
        raise refuse(name, f"has no elements, and {math.prod(shape)} once its axes are padded")
    padded: Array = np.full(shape, fill, array.dtype)
    padded[(*[slice(None)] * axis, slice(array.shape[axis]))] = array
    return padded
