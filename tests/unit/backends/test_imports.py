"""Each engine's library is known to one place alone, and none of the optional ones at start."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PLACES = {
    "onnxruntime": "services/inference/graph/session.py",
    "openvino": "services/inference/backends/openvino_backend.py",
    "torch": "services/inference/backends/torch/",
    "tensorrt": "services/inference/backends/tensorrt/",
    "tensorrt_rtx": "services/inference/backends/tensorrt/",
}


def imported(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("library", PLACES)
def test_a_library_is_imported_in_its_own_place_alone(library: str) -> None:
    files = [*(ROOT / "mesh").rglob("*.py"), *(ROOT / "services").rglob("*.py")]
    outside = [
        str(path.relative_to(ROOT))
        for path in files
        if library in imported(path) and not str(path.relative_to(ROOT)).startswith(PLACES[library])
    ]
    assert outside == []


def test_a_node_starts_without_the_libraries_that_it_may_never_need() -> None:
    code = """
import sys
import services.inference.__main__
optional = ("torch", "tensorrt", "tensorrt_rtx", "cuda", "openvino")
print([name for name in optional if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_no_engine_reports_to_its_makers(tmp_path: Path) -> None:
    code = """
import services.inference.__main__
from services.inference.graph import session
assert session.onnxruntime.SessionOptions()
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "CI")}
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**environment, "HOME": str(tmp_path)},
        check=True,
    )
    assert list(tmp_path.iterdir()) == []
