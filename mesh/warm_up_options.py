"""Requests that a model answers before it is called ready: what a manifest says of them.

A request is its inputs by name; what is not declared is made up from the model's signature. It
knows no model: whether there is such an input is found out when the version is loaded.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_ELEMENTS = 1 << 24
"""Of one warm-up tensor: enough for a batch of large images."""

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)

DatatypeName = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "BF16", "FP32", "FP64", "BYTES",
]  # fmt: skip
Axis = Annotated[int, Field(ge=0)]
Value = bool | int | Annotated[float, Field(allow_inf_nan=False)] | str


class WarmUpTensor(BaseModel):
    """One input of a warm-up request."""

    model_config = _STRICT

    datatype: DatatypeName
    # Not strict: JSON knows no tuples.
    shape: Annotated[tuple[Axis, ...], Field(max_length=32, strict=False)]
    fill: Literal["zeros", "ones", "random"] = "zeros"
    """`random`: floats from 0 to 1, integers 0 or 1, the same each time."""
    values: Annotated[tuple[Value, ...], Field(strict=False)] | None = None
    """The elements in row-major order, instead of `fill`."""

    @model_validator(mode="after")
    def _holds_what_its_shape_says(self) -> Self:
        count = math.prod(self.shape)
        if count > MAX_ELEMENTS:
            raise ValueError(f"has {count} elements, more than {MAX_ELEMENTS}")
        if self.values is not None and len(self.values) != count:
            raise ValueError(f"has {len(self.values)} values, but its shape takes {count}")
        return self


class WarmUpRequest(BaseModel):
    """One request, answered so many times."""

    model_config = _STRICT

    inputs: Annotated[dict[str, WarmUpTensor], Field(min_length=1)]
    count: Annotated[int, Field(ge=1, le=1000)] = 1
