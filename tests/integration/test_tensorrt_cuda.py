"""The backend's calls of CUDA, through the real bindings, against a stand-in for the driver."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from services.inference.backends.backend import BackendUnavailable, Obstacle
from services.inference.backends.tensorrt.cuda import find_gpu
from tests.integration.cuda_walk import decode
from tests.unit.tensorrt.host_gpu import HostGpu

HERE = Path(__file__).parent
has_bindings = find_spec("cuda") is not None and find_spec("cuda.bindings") is not None
needs_bindings = pytest.mark.skipif(
    not has_bindings, reason="the extra `tensorrt` is not installed"
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the stand-in."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the stand-in for the driver cannot be made")
    folder = tmp_path_factory.mktemp("driver")
    source, library = HERE / "stand_in_driver.c", folder / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="module")
def found(driver: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("walk")
    result = folder / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.cuda_walk", result, folder],
        env=os.environ | {"LD_LIBRARY_PATH": str(driver)},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(result.read_text())
    return answers


@needs_bindings
def test_the_gpu_is_what_the_driver_says(found: dict[str, Any]) -> None:
    assert (found["name"], found["architecture"]) == ("Stand-in", "SM89")
    assert found["same"]
    assert found["stream"]
    assert found["free"]


@needs_bindings
def test_memory_is_aligned_and_zeroed(found: dict[str, Any]) -> None:
    assert found["aligned"]
    assert found["zeroed"] == [0] * 8


@needs_bindings
def test_copies_go_where_they_should(found: dict[str, Any]) -> None:
    assert found["copied"] == [0, 1, 0, 0, 4, 5, 0, 0]


@needs_bindings
def test_what_was_recorded_is_done_with_what_lies_there_at_each_launch(
    found: dict[str, Any],
) -> None:
    assert found["launched 5"] == [5, 5, 0, 0, 5, 5, 0, 0]
    assert found["launched 7"] == [7, 7, 0, 0, 7, 7, 0, 0]
    assert found["capture given up"] == [7, 7, 0, 0, 7, 7, 0, 0]


@needs_bindings
def test_what_cuda_refuses_is_an_error_of_ours(found: dict[str, Any]) -> None:
    assert found["too much"] == f"{1 << 62} bytes were asked for, {1 << 30} are free"
    assert found["refused"] == "CUDA: cuStreamEndCapture: CUDA_ERROR_INVALID_VALUE"


@needs_bindings
def test_slots_on_cuda_give_the_tokens_of_slots_without(
    found: dict[str, Any], tmp_path: Path
) -> None:
    assert found["tokens"] == decode(HostGpu(), tmp_path)
    assert len(set(found["tokens"])) > 3


def test_a_machine_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BackendUnavailable) as refused:
        find_gpu()
    expected = Obstacle.NO_GPU if has_bindings else Obstacle.MISSING_LIBRARY
    assert refused.value.obstacle is expected
