"""BYTES as engines read them: arrays of texts, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mesh.tensor import Array, Tensor
from services.inference.oip.byte_strings import read_texts


def read_array(tensor: Tensor) -> Array:
    """A request's tensor as an engine takes it.

    Raises:
        InvalidArgument: an element of BYTES is not UTF-8, which engines require.
    """
    if tensor.datatype != "BYTES":
        return tensor.array()
    return _objects(read_texts(tensor)).reshape(tensor.shape)


def as_texts(array: Array) -> Array:
    """Bytes as texts."""
    return _objects([item.decode() for item in array.ravel()]).reshape(array.shape)


def as_bytes(array: Array) -> Array:
    """Texts as bytes."""
    return _objects([text.encode() for text in array.ravel()]).reshape(array.shape)


def _objects(items: Sequence[object]) -> Array:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
