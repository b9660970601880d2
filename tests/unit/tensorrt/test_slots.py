from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from services.inference.backends.backend import (
    BackendFailed,
    BackendSettings,
    BackendUnavailable,
    InputsRefused,
    Obstacle,
)
from services.inference.backends.tensorrt.shapes import SlotShapes, slot_shapes
from services.inference.backends.tensorrt.slots import TensorRtSlots
from services.inference.llm.decoder_graph import (
    build_decoder_graph,
    build_standard_decoder_graph,
)
from services.inference.llm.onnxruntime_slots import OnnxRuntimeSlots
from services.inference.llm.slot_backend import SlotBackend
from services.inference.llm.standard_graph import StandardForm, WeightForm
from services.inference.llm.symmetric import Bits, symmetric_blocks
from tests.unit.tensorrt.host_gpu import HostGpu
from tests.unit.tensorrt.oracle_engine import OracleEngine
from tests.unit.tensorrt.toy_decoder import CONFIG, ToyWeights

SLOTS, CONTEXT = 5, 96
FP32 = StandardForm("fp32", "plain")
PROMPTS = [
    [7, 3, 9],
    list(range(1, 60)),
    [5],
    [11, 12, 13, 14, 15, 16, 17],
    list(range(90, 60, -1)),
]


@pytest.fixture(scope="module")
def shapes() -> SlotShapes:
    return slot_shapes(CONFIG, FP32, slots=SLOTS, context_tokens=CONTEXT)


@pytest.fixture(scope="module")
def standard_graph(tmp_path_factory: pytest.TempPathFactory, shapes: SlotShapes) -> Path:
    return build_standard_decoder_graph(
        ToyWeights(),
        CONFIG,
        positions=shapes.positions,
        form=FP32,
        folder=tmp_path_factory.mktemp("standard"),
    )


@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> OnnxRuntimeSlots:
    graph = build_decoder_graph(
        ToyWeights(),
        CONFIG,
        context_tokens=CONTEXT,
        precision="fp32",
        folder=tmp_path_factory.mktemp("cpu"),
    )
    settings = BackendSettings(threads=1)
    return OnnxRuntimeSlots(graph, CONFIG, slots=SLOTS, context_tokens=CONTEXT, settings=settings)


def open_slots(graph: Path, shapes: SlotShapes, gpu: HostGpu | None = None) -> TensorRtSlots:
    return TensorRtSlots(OracleEngine(graph, shapes.profiles()), gpu or HostGpu(), shapes)


@pytest.fixture
def slots(standard_graph: Path, shapes: SlotShapes) -> TensorRtSlots:
    return open_slots(standard_graph, shapes)


def greedy(backend: SlotBackend, prompts: list[list[int]], steps: int) -> list[list[int]]:
    """Prefills every slot, in two runs where that can be, and decodes all of them together."""
    held = []
    last = []
    for slot, prompt in enumerate(prompts):
        half = len(prompt) // 2
        if half > 1:
            backend.prefill(slot, prompt[:half], 0)
            logits = backend.prefill(slot, prompt[half:], half)
        else:
            logits = backend.prefill(slot, prompt, 0)
        held.append(len(prompt))
        last.append(int(logits.argmax()))
    answers = [[token] for token in last]
    for _ in range(steps):
        logits = backend.decode([answer[-1] for answer in answers], held)
        held = [n + 1 for n in held]
        for answer, row in zip(answers, logits, strict=True):
            answer.append(int(row.argmax()))
    return answers


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_standard_graph_gives_the_tokens_of_the_cpus_graph(
    slots: TensorRtSlots, cpu: OnnxRuntimeSlots, count: int
) -> None:
    expected = greedy(cpu, PROMPTS[:count], 24)
    assert len({tuple(answer) for answer in expected}) == count
    assert greedy(slots, PROMPTS[:count], 24) == expected


class Rounded(ToyWeights):
    """The toy's weights after a rounding of matrices; tokens are looked up in a plain table."""

    def __init__(self, bits: Bits) -> None:
        self._bits = bits

    def weight(self, name: str) -> NDArray[np.float32]:
        weight = super().weight(name)
        if weight.ndim == 1 or name == "token_embd.weight":
            return weight
        return symmetric_blocks(weight, self._bits).values()


@pytest.mark.parametrize(("form", "bits"), [("int8", 8), ("int4", 4)])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_rounded_weights_give_the_tokens_of_what_they_stand_for(
    tmp_path: Path, form: WeightForm, bits: Bits, count: int
) -> None:
    untied = dataclasses.replace(CONFIG, tied_embeddings=False)
    shapes = slot_shapes(untied, FP32, slots=SLOTS, context_tokens=CONTEXT)
    found = []
    for weights, kept in ((ToyWeights(), StandardForm("fp32", form)), (Rounded(bits), FP32)):
        folder = tmp_path / str(kept)
        folder.mkdir()
        graph = build_standard_decoder_graph(
            weights, untied, positions=shapes.positions, form=kept, folder=folder
        )
        found.append(greedy(open_slots(graph, shapes), PROMPTS[:count], 24))
    assert found[0] == found[1]
    assert len({tuple(answer) for answer in found[0]}) == count


@pytest.mark.parametrize("wrong", [-1, CONFIG.vocabulary])
def test_a_token_that_the_model_does_not_have_is_refused_before_it_reaches_the_gpu(
    slots: TensorRtSlots, wrong: int
) -> None:
    with pytest.raises(InputsRefused, match=f"token {wrong} is outside"):
        slots.prefill(0, [3, wrong, 4], 0)
    with pytest.raises(InputsRefused, match=f"token {wrong} is outside"):
        slots.decode([1, wrong], [0, 0])


def test_a_recorded_run_is_launched_and_one_that_cannot_be_recorded_is_enqueued(
    standard_graph: Path, shapes: SlotShapes
) -> None:
    recording, refusing = HostGpu(), HostGpu(can_capture=False)
    answers = [
        greedy(open_slots(standard_graph, shapes, gpu), PROMPTS[:2], 6)
        for gpu in (recording, refusing)
    ]
    assert answers[0] == answers[1]
    assert recording.launches > 6
    assert refusing.launches == 0


def test_an_engine_that_records_by_itself_is_left_to_it(
    standard_graph: Path, shapes: SlotShapes
) -> None:
    gpu = HostGpu()
    engine = OracleEngine(standard_graph, shapes.profiles(), records_graphs=True)
    greedy(TensorRtSlots(engine, gpu, shapes), PROMPTS[:2], 2)
    assert gpu.launches == 0
    assert engine.saved == 1


def test_padding_leaves_the_other_slots_alone(slots: TensorRtSlots, cpu: OnnxRuntimeSlots) -> None:
    # Three rows run as four: the fourth slot's last position but one is in use.
    full = list(range(1, CONTEXT - 1))
    for backend in (slots, cpu):
        backend.prefill(3, full, 0)
        for slot in range(3):
            backend.prefill(slot, PROMPTS[slot], 0)
        starts = [len(prompt) for prompt in PROMPTS[:3]]
        backend.decode([1, 2, 3], starts)
    next_tokens = [
        backend.decode([0, 0, 0, 9], [*(len(p) for p in PROMPTS[:3]), len(full)])[3].argmax()
        for backend in (slots, cpu)
    ]
    assert next_tokens[0] == next_tokens[1]


def test_copied_and_exchanged_slots_go_on_where_they_were(
    slots: TensorRtSlots, cpu: OnnxRuntimeSlots
) -> None:
    found = []
    for backend in (slots, cpu):
        backend.prefill(0, PROMPTS[1], 0)
        backend.prefill(1, PROMPTS[3], 0)
        backend.copy(0, 4, 40)
        backend.exchange(0, 1, max(len(PROMPTS[1]), len(PROMPTS[3])))
        rows = [
            backend.prefill(0, [2, 2], len(PROMPTS[3])).copy(),
            backend.prefill(1, [2, 2], len(PROMPTS[1])).copy(),
            backend.prefill(4, [2, 2], 40).copy(),
        ]
        found.append(np.stack(rows))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_a_run_past_the_context_is_refused(slots: TensorRtSlots) -> None:
    with pytest.raises(BackendFailed, match="pass the end"):
        slots.decode([1], [CONTEXT])
    with pytest.raises(BackendFailed, match="pass the end"):
        slots.prefill(0, [1, 2], CONTEXT - 1)
    slots.prefill(0, list(range(CONTEXT)), 0)


def test_what_does_not_fit_is_refused_with_figures(
    standard_graph: Path, shapes: SlotShapes
) -> None:
    with pytest.raises(BackendUnavailable, match=r"the slots: \d+ bytes") as refused:
        open_slots(standard_graph, shapes, HostGpu(capacity_bytes=1000))
    assert refused.value.obstacle is Obstacle.OUT_OF_MEMORY


def test_closing_frees_engine_and_gpu(standard_graph: Path, shapes: SlotShapes) -> None:
    gpu, engine = HostGpu(), OracleEngine(standard_graph, shapes.profiles())
    TensorRtSlots(engine, gpu, shapes).close()
    assert gpu.is_closed
    assert engine.is_closed
