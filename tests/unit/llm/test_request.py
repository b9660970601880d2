"""Every field is checked, and the error names it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from services.inference.llm.architecture import SamplingDefaults
from services.inference.llm.request import (
    GenerationRequest,
    SamplingRequest,
    check_limits,
    decide_sampling,
)

DEFAULTS = SamplingDefaults()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("top_k", -1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
    ],
)
def test_a_value_out_of_range_is_refused(field: str, value: float) -> None:
    asked: dict[str, Any] = {field: value}
    with pytest.raises(InvalidArgument, match=field) as refused:
        decide_sampling(SamplingRequest(**asked), DEFAULTS, seed=1)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"stop": ("",)}, "stop"),
        ({"stop": ("x" * 1025,)}, "stop"),
        ({"stop": ("x",) * 17}, "stop"),
    ],
)
def test_a_count_that_makes_no_sense_is_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument, match=field.partition("_")[0]) as refused:
        check_limits(GenerationRequest("Hi", **fields))
    assert refused.value.field == field


def test_unset_fields_take_the_models_defaults() -> None:
    defaults = SamplingDefaults(temperature=0.2, top_p=0.9, top_k=7, min_p=0.1)
    decided = decide_sampling(SamplingRequest(top_k=0), defaults, seed=5)
    assert (decided.temperature, decided.top_p, decided.min_p) == (0.2, 0.9, 0.1)
    assert (decided.top_k, decided.seed) == (0, 5)


@given(
    st.builds(
        SamplingRequest,
        temperature=st.floats(0, 2),
        top_p=st.floats(0, 1, exclude_min=True),
        top_k=st.integers(0, 10**6),
        min_p=st.floats(0, 1),
        repetition_penalty=st.floats(0.01, 10),
        presence_penalty=st.floats(-2, 2),
        frequency_penalty=st.floats(-2, 2),
        seed=st.integers(0, 2**64 - 1),
    )
)
def test_a_value_in_range_is_taken_as_it_is(asked: SamplingRequest) -> None:
    decided = decide_sampling(asked, DEFAULTS, seed=0)
    for name in SamplingRequest.__slots__:
        assert getattr(decided, name) == getattr(asked, name)
