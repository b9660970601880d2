"""The path of recorded decode steps, on a CPU: fixed buffers, every shape ready, no recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.tensorrt.toy_decoder import CONFIG, ToyWeights

torch = pytest.importorskip("torch")

from services.inference.backends.backend import BackendUnavailable, InputsRefused, Obstacle  # noqa: E402
from services.inference.backends.torch.decoder import TorchDecoder  # noqa: E402
from services.inference.backends.torch.placement import Place, opening  # noqa: E402
from services.inference.backends.torch.slots import (  # noqa: E402
    TorchSlots,
    decode_shape,
    decode_shapes,
    spare_positions,
)

if TYPE_CHECKING:
    from services.inference.backends.torch.capture import Record, Run

SLOTS, CONTEXT = 5, 300
PLACE = Place(torch.device("cpu"), torch.float32)


class Weights(ToyWeights):
    def has_weight(self, name: str) -> bool:
        return super().has_weight(name) and not name.endswith(".bias")


def open_slots(record: Record | None) -> TorchSlots:
    with opening(), torch.inference_mode():
        decoder = TorchDecoder(Weights(), CONFIG, spare_positions(CONTEXT), PLACE)
        return TorchSlots(decoder, CONFIG, SLOTS, CONTEXT, PLACE, record=record)


class Recorder:
    """Runs once to record, and again for each replay: on the same memory, as a graph does."""

    def __init__(self, error: Exception | None = None) -> None:
        self.recorded = self.replayed = 0
        self._error = error

    def __call__(self, run: Run) -> Run:
        run()
        if self._error is not None:
            raise self._error
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            run()

        return replay


def answers(slots: TorchSlots) -> list[np.ndarray]:
    """Prompts of several lengths, across the borders of shapes, then steps of fewer and fewer."""
    lengths = [126, 3, 250, 60, 1]
    for slot, length in enumerate(lengths):
        slots.prefill(slot, [(7 * i + slot) % CONFIG.vocabulary for i in range(length)], 0)
    found = []
    for step in range(6):
        rows = 5 - step % 5
        starts = [length + step for length in lengths[:rows]]
        found.append(slots.decode(list(range(rows)), starts).copy())
    return found


def test_recorded_steps_give_what_plain_ones_give() -> None:
    recorder = Recorder()
    recorded, plain = open_slots(recorder), open_slots(None)
    for one, other in zip(answers(recorded), answers(plain), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert recorder.recorded == len(decode_shapes(SLOTS, spare_positions(CONTEXT)))
    assert recorder.replayed == 6
    assert recorded.memory_bytes > plain.memory_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_of_a_gpu_is_that_of_a_cpu(dtype) -> None:
    with torch.inference_mode():
        place = Place(torch.device("cpu"), dtype)
        decoder = TorchDecoder(Weights(), CONFIG, 64, place)
        x = torch.randn(7, CONFIG.hidden, generator=torch.Generator().manual_seed(1)).to(dtype)
        weight = place.put(Weights().weight("blk.0.attn_norm.weight"))
        fused = torch.nn.functional.rms_norm(x, weight.shape, weight, CONFIG.rms_epsilon)
        torch.testing.assert_close(fused, decoder._normed(x, weight))


def test_steps_that_cannot_be_recorded_run_as_they_are() -> None:
    refusing = open_slots(Recorder(RuntimeError("operation not permitted when capturing")))
    for one, other in zip(answers(refusing), answers(open_slots(None)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_model_that_does_not_fit_leaves_it_to_another_backend() -> None:
    with pytest.raises(BackendUnavailable) as refused:
        open_slots(Recorder(torch.OutOfMemoryError("CUDA out of memory")))
    assert refused.value.obstacle is Obstacle.OUT_OF_MEMORY


def test_a_token_that_the_model_does_not_have_never_reaches_the_device() -> None:
    slots = open_slots(None)
    for wrong in (-1, CONFIG.vocabulary):
        with pytest.raises(InputsRefused, match=f"token {wrong} is outside"):
            slots.prefill(0, [1, wrong], 0)
        with pytest.raises(InputsRefused):
            slots.decode([wrong], [0])


def test_a_device_that_fails_at_once_leaves_it_to_another_backend() -> None:
    with pytest.raises(BackendUnavailable) as refused, opening():
        raise torch.AcceleratorError("no kernel image is available")
    assert refused.value.obstacle is Obstacle.BUILD_FAILED


@given(st.data(), st.integers(1, 256), st.integers(16, 5000))
def test_every_run_has_a_shape_that_was_recorded(data, slots: int, context: int) -> None:
    most = spare_positions(context)
    rows, positions = data.draw(st.integers(1, slots)), data.draw(st.integers(1, context))
    shape = decode_shape(rows, positions, slots, most)
    assert shape in decode_shapes(slots, most)
    assert rows <= shape[0] <= slots
    assert positions <= shape[1] <= most
