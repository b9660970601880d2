from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from services.inference.backends.backend import BackendUnavailable, Device, Graph, Obstacle
from services.inference.backends.pending import NotBuiltYet, Pending
from services.inference.backends.tensorrt.backend import TensorRtBackend
from services.inference.backends.tensorrt.engine_cache import EngineCache
from services.inference.backends.tensorrt.gpu import Architecture
from services.inference.encoders.bert_config import BertConfig
from services.inference.encoders.bert_source import BertSource
from services.inference.graph.writer import GRAPH_FILE, GraphWriter
from services.inference.llm.decoder import Decoder
from tests.unit.tensorrt.oracle_machine import ADA, OracleMachine
from tests.unit.tensorrt.toy_decoder import CONFIG, ToyWeights


@pytest.fixture
def machine(tmp_path: Path) -> OracleMachine:
    return OracleMachine(tmp_path)


@pytest.fixture
def backend(machine: OracleMachine) -> TensorRtBackend:
    return TensorRtBackend(machine, EngineCache(None))


@pytest.fixture
def decoder(tmp_path: Path) -> Decoder:
    return Decoder(
        model="toy",
        digest="d" * 64,
        config=CONFIG,
        context_tokens=64,
        precision="fp32",
        cache_dir=tmp_path / "cache",
        open_weights=ToyWeights,
        compute="fp32",
    )


def refused(open_it: Callable[[], object]) -> Obstacle:
    with pytest.raises(BackendUnavailable) as error:
        open_it()
    assert error.value.backend == "tensorrt"
    return error.value.obstacle


def work_for(open_it: Callable[[], object]) -> Pending:
    """What has to be done before this opens."""
    with pytest.raises(NotBuiltYet) as error:
        open_it()
    assert error.value.obstacle is Obstacle.NOT_BUILT_YET
    return error.value.work


def test_a_decoder_is_refused_until_its_engine_is_built(
    backend: TensorRtBackend, decoder: Decoder
) -> None:
    assert backend.check() is Device.GPU
    work_for(lambda: backend.open_slots(decoder, 3)).prepare()
    slots = backend.open_slots(decoder, 3)
    assert (slots.name, slots.slots, slots.context_tokens) == ("tensorrt", 3, 64)
    assert slots.prefill(0, [1, 2, 3], 0).shape == (CONFIG.vocabulary,)


def test_an_engine_is_for_its_gpu_its_library_and_its_shapes(
    machine: OracleMachine, backend: TensorRtBackend, decoder: Decoder
) -> None:
    work_for(lambda: backend.open_slots(decoder, 3)).prepare()
    others = [
        (ADA, decoder, 4),
        (ADA, replace(decoder, context_tokens=32), 3),
        (replace(ADA, architecture=Architecture(9, 0)), decoder, 3),
        (replace(ADA, version="1.1"), decoder, 3),
    ]
    for identity, other, slots in others:
        machine.identity = identity
        found = refused(lambda other=other, slots=slots: backend.open_slots(other, slots))
        assert found is Obstacle.NOT_BUILT_YET
    machine.identity = ADA
    backend.open_slots(decoder, 3).close()


def test_each_form_of_weights_is_an_engine_of_its_own(
    machine: OracleMachine, backend: TensorRtBackend, decoder: Decoder
) -> None:
    kinds = {}
    for precision in ("fp32", "int8", "int4"):
        wanted = replace(decoder, precision=precision)
        work_for(partial(backend.open_slots, wanted, 3)).prepare()
        slots = backend.open_slots(wanted, 3)
        assert np.isfinite(slots.prefill(0, [1, 2, 3], 0)).all()
        graph = machine.folder / str(len(machine.built)) / GRAPH_FILE
        constants = onnx.load(str(graph), load_external_data=False).graph.initializer
        kinds[precision] = {each.data_type for each in constants}
    assert TensorProto.INT4 in kinds["int4"]
    assert TensorProto.INT8 in kinds["int8"]
    assert not {TensorProto.INT4, TensorProto.INT8} & kinds["fp32"]


def test_an_engine_is_built_for_the_architecture_that_is_here(
    machine: OracleMachine, backend: TensorRtBackend, decoder: Decoder
) -> None:
    work_for(lambda: backend.open_slots(decoder, 3)).prepare()
    (job,) = machine.built
    assert job.targets == (Architecture(8, 9),)
    assert len(job.profiles) == 2


def test_versions_of_one_artefact_each_have_their_own_work_and_share_what_it_makes(
    machine: OracleMachine, backend: TensorRtBackend, decoder: Decoder
) -> None:
    first = work_for(lambda: backend.open_slots(decoder, 3))
    second = work_for(lambda: backend.open_slots(decoder, 3))
    first.cancel()  # the first version is removed; the second goes on
    second.prepare()
    work_for(lambda: backend.open_slots(decoder, 4))
    backend.open_slots(decoder, 3).close()
    third = work_for(lambda: backend.open_slots(replace(decoder, digest="f" * 64), 3))
    third.prepare()
    second.prepare()  # nothing is left to be done
    assert len(machine.built) == 2


def test_what_the_machine_lacks_is_the_reason(
    machine: OracleMachine, backend: TensorRtBackend, decoder: Decoder
) -> None:
    machine.refuse(Obstacle.NO_GPU, "CUDA_ERROR_NO_DEVICE")
    assert refused(backend.check) is Obstacle.NO_GPU
    assert refused(lambda: backend.open_slots(decoder, 3)) is Obstacle.NO_GPU


def test_a_gpu_that_is_full_gets_back_what_was_taken(
    machine: OracleMachine, backend: TensorRtBackend, decoder: Decoder
) -> None:
    work_for(lambda: backend.open_slots(decoder, 3)).prepare()
    machine.capacity_bytes = 200_000
    assert refused(lambda: backend.open_slots(decoder, 3)) is Obstacle.OUT_OF_MEMORY
    assert machine.gpus[-1].is_closed


def linear_graph(folder: Path, columns: int | str) -> Path:
    """y = 2 x, rows of four or of any number."""
    folder.mkdir()
    writer = GraphWriter("linear", folder)
    x = writer.input("x", TensorProto.FLOAT, ["rows", columns])
    writer.node("Mul", [x, writer.constant("two", np.array(2, np.float32))], ["y"])
    writer.output("y", TensorProto.FLOAT, ["rows", columns])
    return writer.save({"": 21})


def graph_of(
    path: Path, cache_dir: Path, encoder: BertSource | None = None, *, has_rows: bool = True
) -> Graph:
    return Graph(
        model="linear",
        digest="e" * 64,
        onnx=lambda: path,
        cache_dir=cache_dir,
        encoder=encoder,
        compute="fp32",
        has_rows=has_rows,
    )


@pytest.mark.parametrize("rows", [1, 3, 64, 65, 200])
def test_a_graph_runs_in_padded_pieces_and_gives_the_rows_that_came_in(
    backend: TensorRtBackend, tmp_path: Path, rows: int
) -> None:
    graph = graph_of(linear_graph(tmp_path / "linear", 4), tmp_path / "cache")
    work_for(lambda: backend.open_graph(graph)).prepare()
    runner = backend.open_graph(graph)
    assert [t.name for t in runner.inputs] == ["x"]
    x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    (y,) = runner.run(["y"], {"x": x})
    np.testing.assert_array_equal(y, 2 * x)
    runner.close()


def test_a_graph_whose_shapes_cannot_be_known_is_not_for_this_backend(
    backend: TensorRtBackend, tmp_path: Path
) -> None:
    graph = graph_of(linear_graph(tmp_path / "linear", "any"), tmp_path / "cache")
    assert refused(lambda: backend.open_graph(graph)) is Obstacle.UNSUPPORTED_MODEL


def test_a_graph_that_may_mix_its_rows_is_not_for_this_backend(
    backend: TensorRtBackend, tmp_path: Path
) -> None:
    path = linear_graph(tmp_path / "linear", 4)
    graph = graph_of(path, tmp_path / "cache", has_rows=False)
    assert refused(lambda: backend.open_graph(graph)) is Obstacle.UNSUPPORTED_MODEL


def test_an_output_whose_size_nobody_knows_is_no_engines(
    machine: OracleMachine, backend: TensorRtBackend, tmp_path: Path
) -> None:
    folder = tmp_path / "places"
    folder.mkdir()
    writer = GraphWriter("places", folder)
    x = writer.input("x", TensorProto.FLOAT, ["rows", 4])
    writer.node("NonZero", [x], ["y"])
    writer.output("y", TensorProto.INT64, [2, "found"])
    graph = graph_of(writer.save({"": 21}), tmp_path / "cache")
    work_for(lambda: backend.open_graph(graph)).prepare()
    assert refused(lambda: backend.open_graph(graph)) is Obstacle.BUILD_FAILED
    assert machine.gpus[-1].is_closed


def test_an_encoders_free_axes_are_rows_and_tokens(
    machine: OracleMachine, backend: TensorRtBackend, tmp_path: Path
) -> None:
    config = BertConfig(
        layers=1,
        hidden=8,
        heads=2,
        epsilon=1e-12,
        gelu_approximation="none",
        max_tokens=100,
    )
    encoder = BertSource(config, dict)
    path = linear_graph(tmp_path / "linear", "tokens")
    graph = graph_of(path, tmp_path / "cache", encoder)
    work_for(lambda: backend.open_graph(graph)).prepare()
    ((profile,),) = machine.built[0].profiles
    assert (profile.least, profile.usual, profile.most) == ((1, 1), (8, 100), (64, 100))


def test_an_engine_whose_logits_are_no_numbers_is_no_engine(
    machine: OracleMachine, backend: TensorRtBackend, decoder: Decoder
) -> None:
    work_for(lambda: backend.open_slots(decoder, 3)).prepare()
    machine.tilt = float("nan")
    assert refused(lambda: backend.open_slots(decoder, 3)) is Obstacle.BUILD_FAILED
    assert machine.gpus[-1].is_closed
    machine.tilt = 0
    backend.open_slots(decoder, 3).close()


def test_a_plan_that_the_library_chokes_on_is_no_engine(
    machine: OracleMachine, backend: TensorRtBackend, decoder: Decoder
) -> None:
    work_for(lambda: backend.open_slots(decoder, 3)).prepare()
    machine.loading_error = TypeError("pybind11::init(): factory function returned nullptr")
    assert refused(lambda: backend.open_slots(decoder, 3)) is Obstacle.BUILD_FAILED
    assert machine.gpus[-1].is_closed
