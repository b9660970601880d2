"""Sequences and reserved names: what they may hold, and that what is wrong is named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from mesh.pb.inference_pb2 import InferParameter
from mesh.request_parameters import check_parameters, requested_sequence


def make(**values: Any) -> dict[str, InferParameter]:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return {name: InferParameter(**{kinds[type(v)]: v}) for name, v in values.items()}


@pytest.mark.parametrize(
    ("parameters", "sequence"),
    [
        ({}, None),
        (make(sequence_id=0, sequence_start=False, sequence_end=False), None),
        (make(sequence_id=""), None),
        (make(sequence_id=7, sequence_start=True), 7),
        (make(sequence_id="user-7", sequence_end=True), "user-7"),
        ({"sequence_id": InferParameter(uint64_param=2**64 - 1)}, 2**64 - 1),
        (make(mine="x", sequence_id=-3), -3),
    ],
)
def test_a_sequence_is_a_number_or_a_string(parameters, sequence) -> None:
    check_parameters(parameters)
    assert requested_sequence(parameters) == sequence


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (make(sequence_id=True), "sequence_id"),
        (make(sequence_id=1.5), "sequence_id"),
        ({"sequence_id": InferParameter()}, "sequence_id"),
        (make(sequence_start=True), "sequence_start"),
        (make(sequence_id=0, sequence_end=True), "sequence_end"),
        (make(sequence_id="", sequence_start=True), "sequence_start"),
        (make(sequence_id=1, sequence_start=1), "sequence_start"),
        (make(sequence_id=1, sequence_end="true"), "sequence_end"),
        (make(triton_mine=1), "triton_mine"),
        (make(triton_final_response=True), "triton_final_response"),
        (make(triton_enable_empty_final_response=1), "triton_enable_empty_final_response"),
    ],
)
def test_what_is_wrong_is_named(parameters, name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_parameters(parameters)
    assert refused.value.field == f"parameters.{name}"
    assert refused.value.message.startswith(f"parameters.{name}: ")


@given(st.dictionaries(st.text().filter(lambda n: not n.startswith("triton_")), st.booleans()))
def test_other_names_are_the_models_own(values: dict[str, bool]) -> None:
    reserved = {"sequence_id", "sequence_start", "sequence_end"}
    check_parameters(make(**{n: v for n, v in values.items() if n not in reserved}))
    check_parameters(make(triton_enable_empty_final_response=True))
