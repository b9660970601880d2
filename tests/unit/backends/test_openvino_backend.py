"""What the OpenVINO backend sees to itself, without the library."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from services.inference.backends import openvino_backend
from services.inference.backends.backend import (
    BackendSettings,
    BackendUnavailable,
    GraphTensor,
    InputsRefused,
    Obstacle,
)
from services.inference.backends.openvino_backend import OpenVinoBackend, check_company, said

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Encoder:
    """Gives each row its length; `spread` of its neighbours' is added, from so many rows on."""

    is_concurrent = True
    inputs = ()
    outputs = (GraphTensor("embedding", "FP32", (-1, 1)),)
    memory_bytes = 0

    def __init__(self, spread: float, rows: int) -> None:
        self.spread = np.float32(spread)
        self.rows = rows

    def run(self, _outputs: Sequence[str], inputs: Arrays) -> list[np.ndarray[Any, Any]]:
        lengths = inputs["lengths"].astype(np.float32)
        assert inputs["input_ids"].shape[1] >= lengths.max() >= lengths.min() >= 1
        has_company = len(lengths) >= self.rows
        return [(lengths + self.spread * has_company)[:, None]]

    def close(self) -> None:
        """It holds nothing."""


def test_an_encoder_that_keeps_to_its_rows_passes() -> None:
    check_company(Encoder(0, 1), 512, "f32")
    check_company(Encoder(0, 1), 3, "f32")


@pytest.mark.parametrize("rows", [2, 5, 32])
def test_a_last_bit_in_company_is_enough_to_be_refused(rows: int) -> None:
    with pytest.raises(BackendUnavailable, match="in bf16 on this processor") as refused:
        check_company(Encoder(1e-5, rows), 512, "bf16")
    assert refused.value.obstacle is Obstacle.UNSUPPORTED_PRECISION


def test_a_missing_library_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendUnavailable, match="openvino is not installed") as refused:
        OpenVinoBackend(BackendSettings()).check()
    assert refused.value.obstacle is Obstacle.MISSING_LIBRARY


def test_what_does_not_fit_into_32_bits_is_the_callers_fault() -> None:
    openvino_backend.check_range("id", np.array([-(2**31), 2**31 - 1]))
    openvino_backend.check_range("id", np.array([], np.int64))
    for value in (2**31, -(2**31) - 1):
        with pytest.raises(InputsRefused, match="'id' has a value beyond the 32 bits"):
            openvino_backend.check_range("id", np.array([0, value]))


def test_an_error_says_what_is_wrong_and_not_where_in_the_source() -> None:
    text = (
        "Exception from src/inference/src/cpp/infer_request.cpp:75:\n"
        "Check 'shape.compatible(other)' failed at src/plugins/intel_cpu/src/infer_request.cpp:385:"
        "\nCan't set the input tensor with index: 0\n\n"
    )
    assert said(text) == "Can't set the input tensor with index: 0"
    assert said("out of memory") == "out of memory"
