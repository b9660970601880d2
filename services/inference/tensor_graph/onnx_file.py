"""The ONNX file of an artefact: which one it is, and what only the file itself tells."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from mesh.errors import FailedPrecondition


def find_onnx(folder: Path) -> Path:
    """The artefact's one `.onnx` file; other files may be its external data.

    Raises:
        FailedPrecondition: there is none, or more than one.
    """
    found = sorted(folder.rglob("*.onnx"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise FailedPrecondition("the artefact has no .onnx file")
    names = ", ".join(path.relative_to(folder).as_posix() for path in found)
    raise FailedPrecondition(f"the artefact has several .onnx files, keep one of them: {names}")


def tensors_without_rank(path: Path) -> frozenset[str]:
    """Inputs and outputs of which the file gives no shape; engines show them like scalars.

    Raises:
        FailedPrecondition: the file is not ONNX.
    """
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (DecodeError, ValueError) as error:
        raise FailedPrecondition(f"{path.name} is not ONNX: {error}") from error
    return frozenset(
        tensor.name
        for tensor in (*graph.input, *graph.output)
        if not tensor.type.tensor_type.HasField("shape")
    )
