"""Whether a file of a model can be what its name says, judged by how it begins.

What is empty, cut off, of another kind or a mere Git LFS pointer is told to whoever publishes it,
and not hours later to whoever deploys it. Only what is certain is refused: whether the model can be
served is for the node that opens it. Pure: the caller reads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

HEAD_BYTES = 64 * 1024
"""As much of a file's beginning as a judgement may need."""

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_GGUF_HEADER_BYTES = 24
_SAFETENSORS_LENGTH_BYTES = 8
_NUMBER, _BYTES = 0, 2
"""Protobuf's wire types of what has a length of its own."""
_ONNX_GRAPH_TAG = 7 << 3 | _BYTES
_FIXED_BYTES = {1: 8, 5: 4}
_SHIFT_LIMIT = 70


def find_fault(path: str, head: bytes, size_bytes: int) -> str | None:
    """What is wrong with the file, as the end of a sentence about it; None if nothing is seen.

    `head` is its beginning: all of it, or at least `HEAD_BYTES`.
    """
    look = _LOOKS.get(PurePosixPath(path).suffix)
    if look is None:
        return None
    if not size_bytes:
        return "is empty"
    if head.startswith(_LFS_POINTER):
        return "is a Git LFS pointer and not the file itself: fetch it with `git lfs pull`"
    return look(head, size_bytes)


def _look_at_gguf(head: bytes, size_bytes: int) -> str | None:
    if not head.startswith(b"GGUF"):
        return "is no GGUF file"
    return "is cut off" if size_bytes < _GGUF_HEADER_BYTES else None


def _look_at_safetensors(head: bytes, size_bytes: int) -> str | None:
    length = int.from_bytes(head[:_SAFETENSORS_LENGTH_BYTES], "little")
    if head[_SAFETENSORS_LENGTH_BYTES : _SAFETENSORS_LENGTH_BYTES + 1] != b"{":
        return "is no safetensors file"
    return "is cut off" if _SAFETENSORS_LENGTH_BYTES + length > size_bytes else None


def _look_at_onnx(head: bytes, size_bytes: int) -> str | None:
    """Goes over the fields of the model, without what is in them, as far as the head reaches."""
    position, has_graph = 0, False
    while position < len(head):
        try:
            tag, position = _read_varint(head, position)
            position = _skip(head, position, tag & 7)
        except IndexError:
            return "is cut off" if len(head) == size_bytes else None
        except ValueError:
            return "is no ONNX file"
        has_graph = has_graph or tag == _ONNX_GRAPH_TAG
    if position > size_bytes:
        return "is cut off, or no ONNX file"
    is_whole = position == size_bytes
    return "has no ONNX graph in it" if is_whole and not has_graph else None


def _skip(head: bytes, position: int, wire_type: int) -> int:
    """Where a field ends whose value begins here."""
    if wire_type in _FIXED_BYTES:
        return position + _FIXED_BYTES[wire_type]
    if wire_type not in (_NUMBER, _BYTES):
        raise ValueError(f"wire type {wire_type}")
    value, position = _read_varint(head, position)
    return position + value if wire_type == _BYTES else position


def _read_varint(head: bytes, position: int) -> tuple[int, int]:
    """The number, and where it ends."""
    value = 0
    for shift in range(0, _SHIFT_LIMIT, 7):
        byte = head[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, position
    raise ValueError("a varint of more than ten bytes")


_LOOKS: dict[str, Callable[[bytes, int], str | None]] = {
    ".onnx": _look_at_onnx,
    ".gguf": _look_at_gguf,
    ".safetensors": _look_at_safetensors,
}
