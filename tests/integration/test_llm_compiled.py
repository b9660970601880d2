"""The cache of compiled models, shared by the nodes of one machine."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from typing import TYPE_CHECKING, Any

import pytest

from mesh.errors import FailedPrecondition
from services.inference.llm.compiled import cache_key, compiled_model
from tests.integration.llm_support import DIGEST

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.model


CONTEXT = 256


def compile_once(folder: Path, cache_dir: Path) -> tuple[Path, int]:
    """The graph's path, and when it was made."""
    compiled = compiled_model(
        folder,
        model="smollm2",
        digest=DIGEST,
        max_context_tokens=CONTEXT,
        precision="int8",
        cache_dir=cache_dir,
    )
    return compiled.graph, compiled.graph.stat().st_mtime_ns


def test_two_nodes_build_it_once_even_after_a_crash(demo_models: Any, tmp_path: Path) -> None:
    key = cache_key(DIGEST, CONTEXT, "int8")
    leftover = tmp_path / f"{key}.unfinished"
    leftover.mkdir()
    (leftover / "graph.onnx").write_bytes(b"half a graph")
    folder = demo_models.smollm2_gguf.parent
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn) as pool:
        nodes = [pool.submit(compile_once, folder, tmp_path) for _ in range(2)]
        made = {node.result() for node in nodes}
    assert made == {compile_once(folder, tmp_path)}
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_dir()] == [key]


def test_another_context_or_precision_is_another_model() -> None:
    keys = {
        cache_key(DIGEST, 128, "int8"),
        cache_key(DIGEST, 256, "int8"),
        cache_key(DIGEST, 128, "fp32"),
        cache_key("6" * 64, 128, "int8"),
    }
    assert len(keys) == 4


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"one [.]gguf file, not 0"):
        compile_once(tmp_path, tmp_path / "cache")
