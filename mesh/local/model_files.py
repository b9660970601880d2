"""What a file or a folder on this machine is as a model: its format, its task, its name, its files.

Only looked at, never loaded: whether it can be served is found out by the node that opens it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from mesh.local.problem import LocalProblem
from mesh.manifest import Task

CONFIG = "config.json"
_HEADS: tuple[tuple[str, Task], ...] = (
    ("ForSequenceClassification", "text-classification"),
    ("ForCausalLM", "text-generation"),
    ("LMHeadModel", "text-generation"),
)


def guess_kind(path: Path) -> dict[str, str]:
    """Task and format of what is there.

    Raises:
        LocalProblem: nothing that this project knows.
    """
    if path.suffix == ".gguf":
        return {"task": "text-generation", "format": "gguf"}
    if path.suffix == ".onnx" and not path.is_dir():
        return {"task": "tensor", "format": "onnx"}
    if (path / "modules.json").is_file():
        return {"task": "text-embedding", "format": "sentence-transformers"}
    if (path / CONFIG).is_file() and any(path.glob("*.safetensors")):
        return {"task": _task_of(path / CONFIG), "format": "transformers"}
    found = [each.suffix for each in list_files(path) if each.suffix in (".gguf", ".onnx")]
    if found == [".gguf"]:
        return {"task": "text-generation", "format": "gguf"}
    if found == [".onnx"]:
        return {"task": "tensor", "format": "onnx"}
    raise LocalProblem(
        f"{path} is neither a .gguf or .onnx file nor a folder with one, nor one that transformers "
        f"or sentence-transformers has saved: say what it is in a manifest (--manifest)."
    )


def guess_name(path: Path) -> str:
    """A model's name made of the file's or the folder's."""
    place = path.resolve()
    name = place.name if place.is_dir() else place.stem
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:63]


def list_files(path: Path) -> list[Path]:
    """The files of a model: all of a folder but hidden ones, or a file with its external data."""
    if path.is_dir():
        return sorted(
            each
            for each in path.rglob("*")
            if each.is_file() and not any(p.startswith(".") for p in each.relative_to(path).parts)
        )
    return [path, *_external_data(path)] if path.suffix == ".onnx" else [path]


def _task_of(config: Path) -> Task:
    try:
        written: Any = json.loads(config.read_bytes())
    except ValueError as error:
        raise LocalProblem(f"{config} is not JSON: {error}.") from error
    for architecture in written.get("architectures") or ():
        for head, task in _HEADS:
            if architecture.endswith(head):
                return task
    return "text-embedding"


def _external_data(path: Path) -> list[Path]:
    """The files beside a graph that hold its weights."""
    import onnx  # noqa: PLC0415 - a third of a second, and only graphs need it

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (DecodeError, ValueError) as error:
        raise LocalProblem(f"{path} is not ONNX: {error}.") from error
    entries = (entry for tensor in graph.initializer for entry in tensor.external_data)
    places = sorted({entry.value for entry in entries if entry.key == "location"})
    for place in places:
        if ".." in Path(place).parts or not (path.parent / place).is_file():
            raise LocalProblem(f"{path} keeps its weights in {place}, which is not beside it.")
    return [path.parent / place for place in places]
