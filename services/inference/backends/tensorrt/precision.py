"""In what an engine computes, from what the manifest asks for: pure.

`precision` chooses the type of activations; `weights` how matrices are kept. Matrices that the
manifest wants in float32 are kept in the type of the activations. Where nothing is said a decoder
computes in bfloat16, as such models are trained: some of them leave the range of float16. GPUs
before Ampere have no bfloat16. Encoders stay in that range, and float16 is the nearer of the two.
"""

from __future__ import annotations

from dataclasses import replace

from services.inference.backends.kept_weights import KeptWeights
from services.inference.backends.tensorrt.gpu import Architecture
from services.inference.backends.tensorrt.shapes import POSITION_STEP
from services.inference.llm.standard_graph import Element, StandardForm, WeightForm
from services.inference.llm.symmetric import BLOCK
from services.inference.llm.weights import Precision

_FIRST_WITH_BF16 = Architecture(8, 0)
_ELEMENTS: dict[str, Element] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}
_WEIGHTS: dict[str, WeightForm] = {"int8": "int8", "int8-blocks": "int8", "int4": "int4"}


def decoder_form(weights: Precision, compute: str, architecture: Architecture) -> StandardForm:
    """The form of a decoder's graph on a GPU."""
    usual: Element = "bf16" if architecture >= _FIRST_WITH_BF16 else "fp16"
    return StandardForm(_ELEMENTS.get(compute, usual), _WEIGHTS.get(weights, "plain"))


def kept_weights(form: StandardForm, wanted: Precision) -> KeptWeights:
    """How an engine of this form keeps a decoder: a scale for each block, and a plain table."""
    element = form.element_bytes
    plain = KeptWeights(
        form.element,
        weight_bytes=element,
        cache_element_bytes=element,
        position_step=POSITION_STEP,
        opens_at_once=False,
    )
    if form.weights == "plain":
        return plain
    code_bytes = 1.0 if form.weights == "int8" else 0.5
    return replace(
        plain,
        form=wanted,  # both kinds of int8 are blocks here
        weight_bytes=code_bytes + element / BLOCK,
        table_bytes=element,
    )


def is_half(compute: str) -> bool:
    """Whether an encoder computes in half precision."""
    return compute != "fp32"
