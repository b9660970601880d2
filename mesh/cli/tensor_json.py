"""Tensors as a person writes them on a command line, in the Open Inference Protocol's JSON.

`text='["hello"]'` or `x=[[1,2],[3,4]]`, with the datatype that the model declares or, where it
declares none, that the values suggest. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mesh.local.problem import LocalProblem


class BadTensor(LocalProblem):
    """An input on the command line is no tensor."""


def read_input(text: str, declared: Mapping[str, str]) -> dict[str, Any]:
    """Reads `NAME=VALUE` or `NAME:DATATYPE=VALUE`; plain text that is no JSON is a string."""
    head, separator, written = text.partition("=")
    name, _, datatype = head.partition(":")
    if not separator or not name:
        raise BadTensor(f"{text!r} is not NAME=VALUE: write for example 'text=[\"hello\"]'.")
    try:
        value = json.loads(written)
    except ValueError:
        value = written
    rows = value if isinstance(value, list) else [value]
    data = flatten(rows)
    chosen = datatype or declared.get(name) or suggest_datatype(data)
    return {"name": name, "datatype": chosen, "shape": find_shape(rows, name), "data": data}


def find_shape(rows: Sequence[Any], name: str) -> list[int]:
    """The shape of nested lists.

    Raises:
        BadTensor: their lengths differ.
    """
    if not rows or not isinstance(rows[0], list):
        if any(isinstance(each, list) for each in rows):
            raise BadTensor(f"{name}: the rows are not all of one depth.")
        return [len(rows)]
    shapes = [find_shape(each, name) if isinstance(each, list) else [] for each in rows]
    if any(shape != shapes[0] for shape in shapes):
        raise BadTensor(f"{name}: the rows are not all of one length.")
    return [len(rows), *shapes[0]]


def flatten(value: Any) -> list[Any]:
    """The values of nested lists, row by row."""
    return [each for row in value for each in flatten(row)] if isinstance(value, list) else [value]


def suggest_datatype(data: Sequence[Any]) -> str:
    """The datatype that the values have in JSON."""
    if data and all(isinstance(each, bool) for each in data):
        return "BOOL"
    if any(isinstance(each, str) for each in data):
        return "BYTES"
    return "INT64" if all(isinstance(each, int) for each in data) else "FP32"
