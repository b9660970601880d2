"""Triton's classification extension: an output's largest values and their places, as strings. Pure.

Each string reads `value:index`, and `value:index:label` where the model has labels. An output of
two axes or more is a row per place of its first axis, with a ranking for each; the index counts
within the row. Where values are alike the lower index comes first; NaN counts as the
smallest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mesh.errors import InvalidArgument
from mesh.pb.inference_pb2 import InferParameter
from mesh.tensor import DATATYPES, Array, Tensor, bf16_to_float32, encode_raw

PARAMETER = "classification"


def requested_classes(parameter: InferParameter, *, field: str) -> int:
    """How many classes an output's parameter asks for; 0 asks for the tensor itself.

    Raises:
        InvalidArgument: it is no such number.
    """
    choice = parameter.WhichOneof("parameter_choice")
    count = getattr(parameter, choice) if choice in ("int64_param", "uint64_param") else -1
    if count < 0:
        where = f"{field}.parameters.{PARAMETER}"
        raise InvalidArgument(f"{where}: takes a number of classes, 0 or more", field=where)
    return int(count)


def check_ranks(datatype: str, *, field: str) -> None:
    """Refuses a datatype whose values have no order of size."""
    if DATATYPES[datatype].dtype.kind not in "iuf":
        where = f"{field}.parameters.{PARAMETER}"
        raise InvalidArgument(f"{where}: needs numbers, and the output is {datatype}", field=where)


def classify(tensor: Tensor, count: int, labels: Sequence[str] = ()) -> Tensor:
    """The `count` largest values of each row, or all where there are fewer, as BYTES."""
    values = _numbers(tensor)
    rows = values.reshape(_row_shape(tensor.shape))
    order = _descending(rows)[:, :count]
    width = tensor.shape[-1] if tensor.shape else 1
    texts = np.empty(order.size, dtype=object)
    texts[:] = list(_texts(rows, order, labels, width))
    shape = (*tensor.shape[:1], order.shape[1]) if len(tensor.shape) > 1 else (order.shape[1],)
    return Tensor(tensor.name, "BYTES", shape, encode_raw(texts, "BYTES"))


def _numbers(tensor: Tensor) -> Array:
    values = tensor.array()
    return bf16_to_float32(values) if tensor.datatype == "BF16" else values


def _row_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    rows = shape[0] if len(shape) > 1 else 1
    return rows, int(np.prod(shape[1:] if len(shape) > 1 else shape, dtype=np.int64))


def _descending(rows: Array) -> Array:
    """The indices of each row's values, the largest first."""
    keys = rows[:, ::-1]  # a stable ascending order of this, read backwards, keeps ties in order
    if keys.dtype.kind == "f":
        keys = np.where(np.isnan(keys), -np.inf, keys)
    order: Array = rows.shape[1] - 1 - np.argsort(keys, axis=1, kind="stable")[:, ::-1]
    return order


def _texts(rows: Array, order: Array, labels: Sequence[str], width: int) -> Iterator[bytes]:
    show = "{:f}".format if rows.dtype.kind == "f" else "{:d}".format
    for values, indices in zip(rows, order, strict=True):
        for index in indices.tolist():
            text = f"{show(values[index])}:{index}"
            place = index % width  # the labels are those of the last axis
            yield f"{text}:{labels[place]}".encode() if place < len(labels) else text.encode()
