"""Texts in BYTES tensors, both ways: pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mesh.errors import InvalidArgument
from mesh.tensor import Array, Tensor


def read_texts(tensor: Tensor) -> list[str]:
    """The elements of a BYTES tensor in row-major order; each must be UTF-8."""
    return [_read(item, index, tensor.name) for index, item in enumerate(tensor.array().ravel())]


def text_array(texts: Sequence[str]) -> Array:
    """The array of a BYTES tensor."""
    array = np.empty(len(texts), dtype=object)
    array[:] = [text.encode() for text in texts]
    return array


def _read(item: bytes, index: int, name: str) -> str:
    try:
        return item.decode()
    except UnicodeDecodeError as error:
        field = f"inputs.{name}"
        raise InvalidArgument(
            f"{field}: element {index} is not UTF-8 at byte {error.start}", field=field
        ) from None
