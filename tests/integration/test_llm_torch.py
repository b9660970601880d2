"""Language models on torch, without a GPU: the reference's tokens, the same bits in any company."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mesh.model_options import GenerationOptions
from services.inference.backends.backend import BackendFailed, BackendSettings, Device
from services.inference.backends.torch.backend import TorchBackend
from services.inference.models.needs import decoder_bytes
from tests.integration.llm_support import decoder_of, golden, golden_request, open_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from services.inference.llm.slot_backend import SlotBackend

pytest.importorskip("torch")
pytestmark = pytest.mark.model

SLOTS = 5
CONTEXT = 300
BACKEND = TorchBackend(BackendSettings(threads=2))
PROMPT = tuple((7919 * i) % 49152 for i in range(97))


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "compiled"


@pytest.fixture(scope="module")
def slots(demo_models: Any, cache_dir: Path) -> Iterator[SlotBackend]:
    folder = demo_models.smollm2_gguf.parent
    decoder = decoder_of(folder, cache_dir, context_tokens=CONTEXT, precision="fp32")
    opened = BACKEND.open_slots(decoder, SLOTS)
    yield opened
    opened.close()


def test_it_computes_on_the_cpu_where_there_is_no_gpu(slots: SlotBackend) -> None:
    import torch  # noqa: PLC0415  # after importorskip

    assert BACKEND.check() is (Device.GPU if torch.cuda.is_available() else Device.CPU)
    weights, positions = 134_515_008 * 4, SLOTS * 384 * 30 * 2 * 3 * 64 * 4
    assert weights + positions <= slots.memory_bytes < (weights + positions) * 1.02


async def test_greedy_is_the_reference_token_for_token(demo_models: Any, cache_dir: Path) -> None:
    cases = golden()["generations"][:8]
    async with open_model(
        demo_models.smollm2_gguf, cache_dir, backends=[BACKEND], weights="fp32"
    ) as model:
        assert model.backend == "torch"
        answers = await asyncio.gather(
            *(model.generate_text(golden_request(case, 32)) for case in cases)
        )
    for case, answer in zip(cases, answers, strict=True):
        expected = [token for token in case["greedy_ids"][:32] if token != 2]
        assert list(answer.token_ids) == expected
    assert max(answer.finished.largest_batch for answer in answers) > 1


def test_what_is_counted_before_it_is_loaded_is_what_it_takes(
    demo_models: Any, cache_dir: Path, slots: SlotBackend
) -> None:
    folder = demo_models.smollm2_gguf.parent
    config = decoder_of(folder, cache_dir).config
    options = GenerationOptions(slots=SLOTS, max_context_tokens=CONTEXT)
    counted = decoder_bytes(config, options, BACKEND.kept_weights("int8", "auto"))
    assert 0.98 * slots.memory_bytes < counted <= slots.memory_bytes


async def test_weights_that_it_keeps_otherwise_are_told(demo_models: Any, cache_dir: Path) -> None:
    async with open_model(
        demo_models.smollm2_gguf, cache_dir, backends=[BACKEND], weights="int8", slots=1
    ) as model:
        form = BACKEND.kept_weights("int8", "auto").form
        assert model.remark == f"weights are {form} instead of int8 (torch: unsupported_precision)"


@pytest.mark.parametrize("cuts", [(32,), (2,), (50, 52, 90), (95,)])
def test_a_prompt_gives_the_same_bits_however_it_is_cut(slots: SlotBackend, cuts: tuple) -> None:
    whole = slots.prefill(0, PROMPT, 0).copy()
    for start, end in zip([0, *cuts], [*cuts, len(PROMPT)], strict=True):
        last = slots.prefill(3, PROMPT[start:end], start)
    assert np.array_equal(last, whole)


def test_a_row_gives_the_same_bits_in_any_company(slots: SlotBackend) -> None:
    lengths = [97, 8, 64, 31, 2]
    for slot, length in enumerate(lengths):
        slots.prefill(slot, PROMPT[:length], 0)
    tokens = [11, 12, 13, 14, 15]
    together = slots.decode(tokens, lengths).copy()
    for count in (1, 2, 3, 4):
        fewer = slots.decode(tokens[:count], lengths[:count])
        assert np.array_equal(fewer, together[:count])
    for slot in range(1, SLOTS):
        slots.exchange(0, slot, 100)
        alone = slots.decode([tokens[slot]], [lengths[slot]]).copy()
        slots.exchange(0, slot, 100)
        assert np.array_equal(alone[0], together[slot])


def test_a_token_gives_the_same_bits_alone_in_a_prompt_and_in_a_decode_run(
    slots: SlotBackend,
) -> None:
    whole = slots.prefill(0, PROMPT, 0).copy()
    slots.prefill(1, PROMPT[:-1], 0)
    assert np.array_equal(slots.prefill(1, PROMPT[-1:], len(PROMPT) - 1), whole)
    slots.prefill(0, PROMPT[:-1], 0)
    assert np.array_equal(slots.decode(PROMPT[-1:], [len(PROMPT) - 1])[0], whole)


def test_a_copied_beginning_goes_on_as_if_it_had_been_computed(slots: SlotBackend) -> None:
    slots.prefill(0, PROMPT, 0)
    expected = slots.prefill(0, PROMPT[40:], 40).copy()
    slots.copy(0, 2, 40)
    assert np.array_equal(slots.prefill(2, PROMPT[40:], 40), expected)


def test_a_decode_run_leaves_the_other_slots_alone(slots: SlotBackend) -> None:
    for slot in range(SLOTS):
        slots.prefill(slot, PROMPT, 0)
    kept = slots.decode([1] * SLOTS, [len(PROMPT)] * SLOTS).copy()
    for _ in range(3):
        slots.decode([5, 6], [20, CONTEXT - 1])
    assert np.array_equal(slots.decode([1] * SLOTS, [len(PROMPT)] * SLOTS)[2:], kept[2:])


def test_a_run_past_the_end_of_a_slot_is_refused(slots: SlotBackend) -> None:
    with pytest.raises(BackendFailed, match="pass the end"):
        slots.decode([1], [CONTEXT])
    with pytest.raises(BackendFailed, match="pass the end"):
        slots.prefill(0, PROMPT, CONTEXT - 10)
