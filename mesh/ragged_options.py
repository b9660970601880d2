"""Axes whose length differs from row to row: what a manifest says of them.

Rows of different lengths run together once they are padded to a common one; only whoever made the
model knows which axes bear that, and with what. Names and places are those of the graph.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Place = Annotated[int, Field(ge=1, le=31)]
"""An axis, counted from that of the rows, which is 0."""
Pad = bool | int | Annotated[float, Field(allow_inf_nan=False)] | str


class RaggedAxisOptions(BaseModel):
    """One length, and every input and output that has it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    inputs: Annotated[dict[str, Place], Field(min_length=1)]
    outputs: dict[str, Place] = {}
    pads: dict[str, Pad] = {}
    """What an input is padded with, where that is not 0, false or an empty text."""
    longest: Annotated[int, Field(ge=1, le=1 << 24)] | None = None
    """The longest that the model takes."""
