"""Everything that the backend asks of CUDA, once; run in a process that has a driver.

Prints what it found as JSON; `test_tensorrt_cuda` holds it to what should be there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mesh.errors import RingmeshError
from services.inference.backends.tensorrt.cuda import find_gpu, open_gpu
from services.inference.backends.tensorrt.gpu import Gpu, OutOfDeviceMemory, Rows
from services.inference.backends.tensorrt.shapes import slot_shapes
from services.inference.backends.tensorrt.slots import TensorRtSlots
from services.inference.llm.decoder_graph import build_standard_decoder_graph
from services.inference.llm.standard_graph import StandardForm
from tests.unit.tensorrt.oracle_engine import OracleEngine
from tests.unit.tensorrt.toy_decoder import CONFIG, ToyWeights


def walk() -> dict[str, Any]:
    facts = find_gpu()
    gpu = open_gpu()
    found: dict[str, Any] = {
        "name": facts.name,
        "architecture": facts.architecture.code,
        "same": gpu.facts == facts,
        "stream": gpu.stream != 0,
        "free": gpu.free_bytes() > 0,
    }
    sent, received = gpu.pinned(64).view(np.int64), gpu.pinned(64).view(np.int64)
    here, there = gpu.allocate(64), gpu.allocate(64)
    found["aligned"] = here % 256 == there % 256 == 0
    gpu.to_host(received, here)
    gpu.synchronize()
    found["zeroed"] = received.tolist()

    def there_and_back() -> None:
        gpu.to_device(here, sent)
        gpu.copy_rows(there, here, Rows(count=2, pitch_bytes=32, width_bytes=16))
        gpu.to_host(received, there)

    sent[:] = range(8)
    there_and_back()
    gpu.synchronize()
    found["copied"] = received.tolist()
    launch = gpu.capture(there_and_back)
    for value in (5, 7):
        sent[:] = value
        launch()
        gpu.synchronize()
        found[f"launched {value}"] = received.tolist()
    try:
        gpu.capture(fail)
    except ZeroDivisionError:
        there_and_back()
        gpu.synchronize()
        found["capture given up"] = received.tolist()
    try:
        gpu.allocate(1 << 62)
    except OutOfDeviceMemory as error:
        found["too much"] = str(error)
    gpu.close()
    gpu.close()
    lost = open_gpu()
    lost.allocate(64)
    del lost
    try:
        gpu.capture(lambda: gpu.capture(there_and_back))
    except RingmeshError as error:
        found["refused"] = error.message
    return found


def fail() -> None:
    raise ZeroDivisionError


def decode(gpu: Gpu, folder: Path) -> list[int]:
    """Tokens of a tiny decoder whose slots are copied and exchanged on the way."""
    form = StandardForm("fp32", "plain")
    shapes = slot_shapes(CONFIG, form, slots=3, context_tokens=64)
    graph = build_standard_decoder_graph(
        ToyWeights(), CONFIG, positions=shapes.positions, form=form, folder=folder
    )
    engine = OracleEngine(graph, shapes.profiles(), records_graphs=True)
    slots = TensorRtSlots(engine, gpu, shapes)
    slots.prefill(0, list(range(20)), 0)
    slots.prefill(1, [7, 7, 7], 0)
    slots.copy(0, 2, 20)
    slots.exchange(0, 1, 20)
    tokens, held = [1, 2, 3], [3, 20, 20]
    answers = []
    for _ in range(6):
        tokens = slots.decode(tokens, held).argmax(axis=1).tolist()
        held = [n + 1 for n in held]
        answers += tokens
    slots.close()
    return answers


if __name__ == "__main__":
    result, work = Path(sys.argv[1]), Path(sys.argv[2])
    answers = walk() | {"tokens": decode(open_gpu(), work)}
    result.write_text(json.dumps(answers))
