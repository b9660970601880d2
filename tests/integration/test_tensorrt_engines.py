"""Real engines, built ahead of time by TensorRT-RTX on a machine without a GPU."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mesh.local.demo_models import DemoModels
from services.inference.backends.backend import BackendSettings, BackendUnavailable, Obstacle
from services.inference.backends.tensorrt.build import build_plan, parse_network
from services.inference.backends.tensorrt.build_process import BuildJob, BuildProcess, check_outcome
from services.inference.backends.tensorrt.cuda import find_gpu
from services.inference.backends.tensorrt.engine import TensorRtEngine
from services.inference.backends.tensorrt.gpu import Architecture
from services.inference.backends.tensorrt.graph_shapes import graph_profile
from services.inference.backends.tensorrt.library import Flavour, Library, load_library
from services.inference.backends.tensorrt.shapes import SlotShapes, slot_shapes
from services.inference.encoders.bert_graph import build_bert_graph
from services.inference.encoders.bert_source import BertSource
from services.inference.encoders.bert_weights import load_bert_weights
from services.inference.encoders.sentence_config import read_sentence_config
from services.inference.graph.half import write_half
from services.inference.graph.session import GraphSession, graph_bytes
from services.inference.graph.writer import GRAPH_FILE, GraphWriter
from services.inference.llm.decoder_graph import build_standard_decoder_graph
from services.inference.llm.standard_graph import OPSETS, StandardForm
from tests.unit.tensorrt.host_gpu import HostGpu
from tests.unit.tensorrt.toy_decoder import CONFIG, ToyWeights

tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="the extra `tensorrt` is not installed")

ADA = (Architecture(8, 9),)
FORMS = [
    StandardForm("fp16", "plain"),
    StandardForm("bf16", "plain"),
    StandardForm("fp16", "int8"),
    StandardForm("fp16", "int4"),
    StandardForm("bf16", "int4"),
    StandardForm("fp32", "plain"),
]
MATRICES = 5 * CONFIG.layers + 1  # joined projections, output, gate, up, down; and the head


@pytest.fixture(scope="module")
def library() -> Library:
    # The library keeps its first logger for good, so the whole module shares one.
    return load_library()


def shapes_of(form: StandardForm) -> SlotShapes:
    return slot_shapes(CONFIG, form, slots=8, context_tokens=200)


def decoder(form: StandardForm, folder: Path) -> Path:
    return build_standard_decoder_graph(
        ToyWeights(), CONFIG, positions=shapes_of(form).positions, form=form, folder=folder
    )


def no_gpu_here() -> bool:
    try:
        find_gpu()
    except BackendUnavailable:
        return True
    return False


needs_no_gpu = pytest.mark.skipif(not no_gpu_here(), reason="there is a GPU: the plan may run")


def layer_types(library: Library, graph: Path) -> Counter[str]:
    network = parse_network(library, library.make_builder(), graph)
    kinds = (network.get_layer(index).type for index in range(network.num_layers))
    return Counter(kind.name for kind in kinds)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_decoder_builds_for_a_gpu_that_is_not_there(
    library: Library, tmp_path: Path, form: StandardForm
) -> None:
    plan = build_plan(library, decoder(form, tmp_path), shapes_of(form).profiles(), ADA)
    assert len(plan) > 100_000


def test_float32_is_not_computed_in_ten_bits(library: Library) -> None:
    config = library.make_config(library.make_builder(), ADA)
    assert not config.get_flag(tensorrt_rtx.BuilderFlag.TF32)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_slots_are_written_in_place_and_attention_is_one_operation(
    library: Library, tmp_path: Path, form: StandardForm
) -> None:
    types = layer_types(library, decoder(form, tmp_path))
    assert types["KV_CACHE_UPDATE"] == 2 * CONFIG.layers
    assert types["ATTENTION_INPUT"] == types["ATTENTION_OUTPUT"] == CONFIG.layers
    assert types["ROTARY_EMBEDDING"] == 2 * CONFIG.layers
    assert types["DEQUANTIZE"] == (0 if form.weights == "plain" else MATRICES)


def test_the_network_has_the_inputs_that_slots_bind(library: Library, tmp_path: Path) -> None:
    form = FORMS[0]
    graph = decoder(form, tmp_path)
    network = parse_network(library, library.make_builder(), graph)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    wanted = shapes_of(form).inputs(-1, -1)
    assert {each.name: tuple(each.shape) for each in inputs} == wanted


@needs_no_gpu
def test_a_plan_without_a_gpu_says_that_there_is_none(library: Library, tmp_path: Path) -> None:
    form = FORMS[0]
    plan = build_plan(library, decoder(form, tmp_path), shapes_of(form).profiles(), ADA)
    with pytest.raises(BackendUnavailable, match="GPU") as refused:
        TensorRtEngine(library, HostGpu(), plan, tmp_path / "kernels")
    assert refused.value.obstacle is Obstacle.NO_GPU


def test_what_cannot_be_parsed_says_why(library: Library, tmp_path: Path) -> None:
    writer = GraphWriter("strange", tmp_path)
    x = writer.input("x", 1, ["n"])
    writer.node("NoSuchOperator", [x], ["y"], domain="strange")
    writer.output("y", 1, ["n"])
    graph = writer.save({**OPSETS, "strange": 1})
    with pytest.raises(BackendUnavailable, match="NoSuchOperator") as refused:
        build_plan(library, graph, (), ADA)
    assert refused.value.obstacle is Obstacle.BUILD_FAILED


def test_shapes_that_are_missing_say_so(library: Library, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="profile") as refused:
        build_plan(library, decoder(FORMS[0], tmp_path), (), ADA)
    assert refused.value.obstacle is Obstacle.BUILD_FAILED


def test_hopper_is_refused_with_what_to_install_instead(library: Library) -> None:
    if library.flavour is Flavour.FULL:
        pytest.skip("full TensorRT is installed, which runs there")
    library.check_architecture(Architecture(8, 9))
    with pytest.raises(BackendUnavailable, match="pip install tensorrt") as refused:
        library.check_architecture(Architecture(9, 0))
    assert refused.value.obstacle is Obstacle.UNSUPPORTED_GPU


def job(folder: Path, graph: Path) -> BuildJob:
    profiles = shapes_of(FORMS[0]).profiles()
    return BuildJob(graph=graph, profiles=profiles, targets=ADA, plan=folder / "plan")


def test_a_build_in_a_process_of_its_own_leaves_the_plan(tmp_path: Path) -> None:
    made = job(tmp_path, decoder(FORMS[0], tmp_path))
    BuildProcess(threading.Lock()).run(made)
    assert made.plan.stat().st_size > 100_000


def test_a_build_that_fails_there_keeps_its_reason(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="cannot be parsed") as refused:
        BuildProcess(threading.Lock()).run(job(tmp_path, tmp_path / GRAPH_FILE))
    assert refused.value.obstacle is Obstacle.BUILD_FAILED


def test_a_build_can_be_ended(tmp_path: Path) -> None:
    process = BuildProcess(threading.Lock())
    made = job(tmp_path, decoder(FORMS[0], tmp_path))
    with ThreadPoolExecutor() as pool:
        build = pool.submit(process.run, made)
        process.close()
        with pytest.raises(BackendUnavailable) as refused:
            build.result()
    assert refused.value.obstacle is Obstacle.BUILD_FAILED
    with pytest.raises(BackendUnavailable, match="given up"):
        process.run(made)


def test_a_crash_is_a_reason_too() -> None:
    with pytest.raises(BackendUnavailable, match="signal 11: free\\(\\): bad"):
        check_outcome(-signal.SIGSEGV, "", "free(): bad\n")
    with pytest.raises(BackendUnavailable, match="status 3: it said nothing"):
        check_outcome(3, "[]\n", "")
    check_outcome(0, "", "warnings")


@pytest.mark.model
def test_an_encoder_builds_in_half_precision_and_stays_what_it_is(
    library: Library, demo_models: DemoModels, tmp_path: Path
) -> None:
    config = read_sentence_config(demo_models.minilm_folder)
    weights = load_bert_weights(demo_models.minilm_folder, config.family)
    whole, half = tmp_path / "whole", tmp_path / "half"
    whole.mkdir()
    half.mkdir()
    graph = build_bert_graph(weights, config, whole)
    halved = write_half(graph, half)
    profile = graph_profile("minilm", graph, BertSource(config, lambda: weights))
    plan = build_plan(library, halved, (profile,), ADA)
    assert len(plan) < 0.6 * graph_bytes(graph)
    types = layer_types(library, halved)
    assert types["ATTENTION_INPUT"] == config.layers
    rows = {"input_ids": np.arange(1000, 1024).reshape(2, 12), "lengths": np.array([12, 7])}
    first, second = (
        GraphSession(each, BackendSettings(threads=1)).run(["embedding"], rows)[0]
        for each in (graph, halved)
    )
    assert (first * second).sum(axis=1) == pytest.approx(1, abs=1e-4)


@pytest.mark.model
def test_an_encoder_builds_in_float32_too(
    library: Library, demo_models: DemoModels, tmp_path: Path
) -> None:
    config = read_sentence_config(demo_models.minilm_folder)
    weights = load_bert_weights(demo_models.minilm_folder, config.family)
    graph = build_bert_graph(weights, config, tmp_path)
    profile = graph_profile("minilm", graph, BertSource(config, lambda: weights))
    assert len(build_plan(library, graph, (profile,), ADA)) > 0.9 * graph_bytes(graph)
