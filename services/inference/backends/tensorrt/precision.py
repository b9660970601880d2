"""In what an engine computes, from what the manifest asks for: pure.

`precision` chooses the type of activations, half where nothing is said; `weights` how matrices are
kept. Matrices that the manifest wants in float32 are kept in the type of the activations.
"""

from __future__ import annotations

from services.inference.llm.standard_graph import Element, StandardForm, WeightForm
from services.inference.llm.weights import Precision

_ELEMENTS: dict[str, Element] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}
_WEIGHTS: dict[str, WeightForm] = {"int8": "int8", "int8-blocks": "int8", "int4": "int4"}


def decoder_form(weights: Precision, compute: str) -> StandardForm:
    """The form of a decoder's graph."""
    return StandardForm(_ELEMENTS.get(compute, "fp16"), _WEIGHTS.get(weights, "plain"))


def is_half(compute: str) -> bool:
    """Whether an encoder computes in half precision."""
    return compute != "fp32"
