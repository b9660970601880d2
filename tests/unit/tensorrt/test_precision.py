from __future__ import annotations

import pytest

from services.inference.backends.tensorrt.gpu import Architecture
from services.inference.backends.tensorrt.precision import decoder_form
from services.inference.llm.weights import Precision

TURING, AMPERE = Architecture(7, 5), Architecture(8, 0)


@pytest.mark.parametrize(
    ("weights", "compute", "architecture", "form"),
    [
        ("fp32", "auto", AMPERE, "bf16"),
        ("fp32", "auto", TURING, "fp16"),
        ("fp32", "fp16", AMPERE, "fp16"),
        ("fp32", "fp32", AMPERE, "fp32"),
        ("int8", "auto", AMPERE, "int8-bf16"),
        ("int8-blocks", "fp16", AMPERE, "int8-fp16"),
        ("int4", "auto", AMPERE, "int4-bf16"),
    ],
)
def test_a_decoder_computes_in_what_the_gpu_has(
    weights: Precision, compute: str, architecture: Architecture, form: str
) -> None:
    assert str(decoder_form(weights, compute, architecture)) == form
