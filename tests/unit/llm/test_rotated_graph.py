"""The rotated decoder against the plain one: the same function, and a row's bits are its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.backends.backend import BackendSettings
from services.inference.llm.decoder_graph import build_decoder_graph
from services.inference.llm.onnxruntime_slots import OnnxRuntimeSlots
from services.inference.llm.rotation import rotation
from services.inference.llm.weights import Precision
from tests.unit.tensorrt.toy_decoder import CONFIG, ToyWeights

SLOTS, CONTEXT = 6, 64
PROMPT = [9, 4, 77, 31, 5, 120, 2, 61, 15, 33]


class Outliers(ToyWeights):
    """Two places of the stream outweigh all others, as in real models."""

    def weight(self, name: str) -> np.ndarray:
        values = super().weight(name)
        if name == "token_embd.weight":
            values[:, [3, 40]] *= 60
        if name.endswith("_norm.weight"):
            values[[3, 40]] /= 20
        return values


def open_slots(folder: Path, precision: Precision, threads: int = 2) -> OnnxRuntimeSlots:
    graph = build_decoder_graph(
        Outliers(), CONFIG, context_tokens=CONTEXT, precision=precision, folder=folder
    )
    settings = BackendSettings(threads=threads)
    return OnnxRuntimeSlots(graph, CONFIG, slots=SLOTS, context_tokens=CONTEXT, settings=settings)


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> OnnxRuntimeSlots:
    return open_slots(tmp_path_factory.mktemp("rotated"), "int8")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> OnnxRuntimeSlots:
    return open_slots(tmp_path_factory.mktemp("plain"), "fp32")


def test_it_is_the_plain_decoder_but_for_rounding(
    rotated: OnnxRuntimeSlots, plain: OnnxRuntimeSlots
) -> None:
    exact = plain.prefill(0, PROMPT, 0).copy()
    found = rotated.prefill(0, PROMPT, 0)
    assert np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_a_row_is_the_same_to_the_bit_in_any_company(tmp_path: Path, threads: int) -> None:
    slots = open_slots(tmp_path, "int8", threads)
    for slot in range(SLOTS):
        slots.prefill(slot, PROMPT[slot:], 0)
    held = [len(PROMPT) - slot for slot in range(SLOTS)]
    for rows in range(1, SLOTS + 1):
        logits = slots.decode([50 + row for row in range(rows)], held[:rows]).copy()
        alone = slots.decode([50], held[:1])
        np.testing.assert_array_equal(logits[0], alone[0])


@given(st.integers(2, len(PROMPT) - 2))
def test_a_prompt_may_be_cut_anywhere(rotated: OnnxRuntimeSlots, cut: int) -> None:
    whole = rotated.prefill(0, PROMPT, 0).copy()
    rotated.prefill(1, PROMPT[:cut], 0)
    np.testing.assert_array_equal(rotated.prefill(1, PROMPT[cut:], cut), whole)


@given(st.integers(2, 300))
def test_a_rotation_keeps_lengths_and_flattens_a_single_value(size: int) -> None:
    matrix = rotation(size)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-5)
    assert np.abs(matrix).max() <= np.sqrt(2 / size) + 1e-6
