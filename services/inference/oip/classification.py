"""Triton's classification extension: an output's largest values and their places, as strings. Pure.

Each string reads `value:index`, and `value:index:label` where the model has labels. As in Triton,
the first axis of a batched model's output is its rows, with a ranking for each, in which the index
counts; any other output is ranked as a whole. Where values are alike the lower index comes first;
NaN counts as the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from mesh.errors import InvalidArgument
from mesh.pb.inference_pb2 import InferParameter
from mesh.server import MAX_MESSAGE_BYTES
from mesh.tensor import DATATYPES, Array, Tensor, bf16_to_float32, decode_raw, encode_raw
from mesh.tensor.raw import LENGTH_PREFIX

PARAMETER = "classification"

LEAST_CLASS_BYTES = LENGTH_PREFIX.size + len("0:0")
"""What the shortest class takes in an answer."""


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


def classify(
    tensor: Tensor, count: int, labels: Sequence[str] = (), *, has_rows: bool = False
) -> Tensor:
    """The `count` largest values, or all where there are fewer, as BYTES; `has_rows` of each row.

    Raises:
        InvalidArgument: no answer could hold so many classes.
    """
    field = f"outputs.{tensor.name}"
    values = decode_raw(tensor.datatype, tensor.shape, tensor.raw, field=field)
    batch, row = (tensor.shape[:1], tensor.shape[1:]) if has_rows else ((), tensor.shape)
    rows, places = math.prod(batch), math.prod(row)
    ranked = min(count, places)
    shape = (*batch, ranked)
    _check_fits(rows * ranked, field)
    if not rows * ranked:  # however many empty rows: there is nothing to walk over
        return Tensor(tensor.name, "BYTES", shape, b"")
    table = _numbers(values, tensor.datatype).reshape(rows, places)
    order = _descending(table)[:, :ranked]
    width = row[-1] if row else 1
    texts = np.empty(order.size, dtype=object)
    texts[:] = list(_texts(table, order, labels, width))
    return Tensor(tensor.name, "BYTES", shape, encode_raw(texts, "BYTES"))


def _check_fits(classes: int, field: str) -> None:
    most = MAX_MESSAGE_BYTES // LEAST_CLASS_BYTES
    if classes > most:
        where = f"{field}.parameters.{PARAMETER}"
        message = f"{where}: makes {classes} classes, and an answer holds {most} at most"
        raise InvalidArgument(message, field=where)


def _numbers(values: Array, datatype: str) -> Array:
    return bf16_to_float32(values) if datatype == "BF16" else values


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
