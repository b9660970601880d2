"""The graph that TensorRT compiles, in float32 on the CPU, against the reference's own tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.local.demo_models import DemoModels
from services.inference.backends.tensorrt.shapes import slot_shapes
from services.inference.backends.tensorrt.slots import TensorRtSlots
from services.inference.graph.writer import WEIGHTS_FILE
from services.inference.llm.decoder_graph import build_standard_decoder_graph
from services.inference.llm.gguf_model import GgufModel
from services.inference.llm.standard_graph import StandardForm
from tests.integration.llm_support import golden
from tests.unit.tensorrt.host_gpu import HostGpu
from tests.unit.tensorrt.oracle_engine import OracleEngine

pytestmark = pytest.mark.model

CASES = 3
NEW_TOKENS = 16


def test_the_demo_models_slots_give_the_references_tokens(
    demo_models: DemoModels, tmp_path: Path
) -> None:
    model = GgufModel(demo_models.smollm2_gguf)
    form = StandardForm("fp32", "plain")
    shapes = slot_shapes(model.config, form, slots=CASES, context_tokens=96)
    graph = build_standard_decoder_graph(
        model, model.config, positions=shapes.positions, form=form, folder=tmp_path
    )
    slots = TensorRtSlots(OracleEngine(graph, shapes.profiles()), HostGpu(), shapes)
    (tmp_path / WEIGHTS_FILE).unlink()  # half a gigabyte, which is loaded by now
    cases = golden()["generations"][:CASES]
    answers = []
    for slot, case in enumerate(cases):
        prompt = case["prompt_ids"]
        slots.prefill(slot, prompt[:20], 0)
        answers.append([int(slots.prefill(slot, prompt[20:], 20).argmax())])
    held = [len(case["prompt_ids"]) for case in cases]
    for _ in range(NEW_TOKENS - 1):
        logits = slots.decode([answer[-1] for answer in answers], held)
        held = [n + 1 for n in held]
        for answer, row in zip(answers, logits, strict=True):
            answer.append(int(row.argmax()))
    slots.close()
    for answer, case in zip(answers, cases, strict=True):
        expected = case["greedy_ids"][:NEW_TOKENS]
        assert answer[: len(expected)] == expected
