"""The cache of compiled models, shared by the nodes of one machine."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from mesh.errors import FailedPrecondition
from services.inference.llm.compiled import compiled_decoder
from services.inference.llm.decoder import Decoder
from services.inference.llm.model_files import open_model_files
from tests.integration.llm_support import DIGEST, decoder_of
from tests.unit.tensorrt.toy_decoder import CONFIG

pytestmark = pytest.mark.model

TINY = Decoder(
    model="tiny",
    digest=DIGEST,
    config=CONFIG,
    context_tokens=256,
    precision="int8",
    cache_dir=Path("nowhere"),
    open_weights=partial(open_model_files, Path("nowhere")),
)


def compile_once(folder: Path, cache_dir: Path) -> tuple[Path, int]:
    """The graph's path, and when it was made."""
    graph = compiled_decoder(decoder_of(folder, cache_dir))
    return graph, graph.stat().st_mtime_ns


def test_two_nodes_build_it_once_even_after_a_crash(demo_models: Any, tmp_path: Path) -> None:
    folder = demo_models.smollm2_gguf.parent
    half = folders_of_one_compilation(folder, tmp_path / "crashed")
    cache_dir = tmp_path / "cache"
    for name in half:
        leftover = cache_dir / f"{name}.unfinished"
        leftover.mkdir(parents=True)
        (leftover / "graph.onnx").write_bytes(b"half a graph")
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn) as pool:
        nodes = [pool.submit(compile_once, folder, cache_dir) for _ in range(2)]
        made = {node.result() for node in nodes}
    assert made == {compile_once(folder, cache_dir)}
    assert {entry.name for entry in cache_dir.iterdir() if entry.is_dir()} == half


def folders_of_one_compilation(folder: Path, cache_dir: Path) -> set[str]:
    compile_once(folder, cache_dir)
    return {entry.name for entry in cache_dir.iterdir() if entry.is_dir()}


def test_another_context_precision_or_artefact_is_another_graph(tmp_path: Path) -> None:
    class Weights:
        """Fails the build: its folder's name is all that this test is about."""

        def __call__(self) -> NoReturn:
            raise FailedPrecondition("no weights")

    built = set()
    for changes in (
        {"context_tokens": 128},
        {"context_tokens": 256},
        {"precision": "fp32"},
        {"digest": "6" * 64},
    ):
        decoder = replace(TINY, cache_dir=tmp_path, open_weights=Weights(), **changes)
        with pytest.raises(FailedPrecondition, match="no weights"):
            compiled_decoder(decoder)
        built = {entry.name for entry in tmp_path.glob("*.unfinished")}
    assert len(built) == 4


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"one [.]gguf file"):
        compile_once(tmp_path, tmp_path / "cache")
