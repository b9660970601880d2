"""The engines to compare with, each in an environment of its own, made once and kept.

Their packages never enter the project's environment. What cannot be had is reported as missing,
with the reason, and the comparison goes on without it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from bench.turns import Missing, Row

ENGINES = Path(__file__).parent / "engines"
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Environment:
    """Packages that are installed together; `variables` are for their build."""

    name: str
    requirements: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=lambda: _NOTHING)


class CannotBeHad(Exception):
    """A peer that cannot be had here."""


LLAMA_CPP = Environment(
    "llama.cpp",
    ("llama-cpp-python==0.3.36",),
    MappingProxyType({"CMAKE_ARGS": "-DGGML_NATIVE=ON"}),
)
OPENVINO = Environment("openvino", ("openvino-genai==2026.4.1", "numpy"))
# torch and transformers are for its model builder.
GENAI = Environment(
    "onnxruntime-genai",
    (
        "torch==2.13.0",
        "onnxruntime-genai==0.18.0",
        "transformers==5.23.0",
        "onnx",
        "onnx-ir",
        "gguf",
        "accelerate",
        "safetensors",
    ),
)


def our_rows(gguf: Path, folder: Path) -> list[Row]:
    """Through the node's gRPC stream, and the bare engine below it, for both forms of int8."""
    kinds = {
        "ringmesh, int8": ("node_engine", "socket", "int8"),
        "its bare engine, int8": ("bare_engine", "int8"),
        "ringmesh, int8, asked by grpcio": ("node_engine", "grpcio", "int8"),
        "ringmesh, int8-blocks": ("node_engine", "socket", "int8-blocks"),
        "its bare engine, int8-blocks": ("bare_engine", "int8-blocks"),
    }
    return [
        Row(
            name, (sys.executable, _script(script), *how, str(gguf), str(folder / "compiled"), form)
        )
        for name, (script, *how, form) in kinds.items()
    ]


def peer_rows(gguf: Path, folder: Path) -> list[Row | Missing]:
    """The peers, each ready to start, or its name and why it is missing."""
    makers: dict[str, Callable[[], Row]] = {
        "llama.cpp Q4_1": lambda: _llama_cpp("Q4_1", gguf, folder),
        "llama.cpp Q8_0": lambda: _llama_cpp("Q8_0", _q8_0(gguf, folder), folder),
        "onnxruntime-genai int8": lambda: _genai(gguf, folder),
        "openvino-genai Q4_1": lambda: _openvino("Q4_1", gguf, folder),
        "openvino-genai Q8_0": lambda: _openvino("Q8_0", _q8_0(gguf, folder), folder),
    }
    rows: list[Row | Missing] = []
    for name, make in makers.items():
        try:
            rows.append(make())
        except CannotBeHad as error:
            rows.append((name, str(error)))
    return rows


def obtain(environment: Environment, folder: Path) -> str:
    """The environment's interpreter."""
    place = folder / environment.name
    python = str(place / "bin" / "python")
    stamp = place / "installed"
    wanted = "\n".join(environment.requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"installing {', '.join(environment.requirements)}", file=sys.stderr)  # noqa: T201
    _run([sys.executable, "-m", "venv", str(place)])
    install = [python, "-m", "pip", "install", "-qq", *environment.requirements]
    _run(install, environment.variables)
    stamp.write_text(wanted)
    return python


def _llama_cpp(form: str, gguf: Path, folder: Path) -> Row:
    python = obtain(LLAMA_CPP, folder)
    return Row(f"llama.cpp {form}", (python, _script("llama_cpp_engine"), str(gguf)))


def _openvino(form: str, gguf: Path, folder: Path) -> Row:
    python = obtain(OPENVINO, folder)
    return Row(f"openvino-genai {form}", (python, _script("openvino_engine"), str(gguf)))


def _genai(gguf: Path, folder: Path) -> Row:
    python = obtain(GENAI, folder)
    target = folder / "models" / "genai-int8"
    if not (target / "genai_config.json").exists():
        work = folder / "models" / "huggingface"
        _run([python, _script("onnxruntime_genai_build"), str(gguf), str(work), str(target)])
    script = _script("onnxruntime_genai_engine")
    return Row("onnxruntime-genai int8", (python, script, str(target)))


def _q8_0(gguf: Path, folder: Path) -> Path:
    target = folder / "models" / "q8_0.gguf"
    if not target.exists():
        python = obtain(LLAMA_CPP, folder)
        target.parent.mkdir(exist_ok=True)
        _run([python, _script("llama_cpp_quantize"), str(gguf), str(target)])
    return target


def _script(name: str) -> str:
    return str(ENGINES / f"{name}.py")


def _run(command: Sequence[str], variables: Mapping[str, str] = _NOTHING) -> None:
    env = {**os.environ, **variables}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise CannotBeHad(f"{Path(command[0]).name} {command[1]}: {last}")
