"""Every datatype of the protocol in every shape that matters, with values that lose bits first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.utils import triton_to_np_dtype

from mesh.tensor import DATATYPES, encode_raw, float32_to_bf16

SHAPES: tuple[tuple[int, ...], ...] = ((), (4,), (2, 2), (1, 4, 1), (0,), (0, 3), (2, 0, 5))

_FLOATS = [0.0, -0.0, 1.5, -1.25]
_TEXTS = [b"", b"\x00a\x00", b"\xff\xfe", "grüße".encode()]


def _values(datatype: str) -> list[Any]:
    kind = DATATYPES[datatype].dtype.kind
    if datatype == "BYTES":
        return _TEXTS
    if datatype == "BOOL":
        return [True, False, False, True]
    if datatype == "BF16" or kind == "f":
        return _FLOATS
    limits = np.iinfo(DATATYPES[datatype].dtype)
    return [0, 1, int(limits.min), int(limits.max)]


@dataclass(frozen=True)
class Case:
    """One tensor."""

    datatype: str
    shape: tuple[int, ...]

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """As tritonclient has it, whose dtype for BF16 depends on its version."""
        flat = np.empty(4, dtype=triton_to_np_dtype(self.datatype))
        flat[:] = _values(self.datatype)
        return flat[2:3].reshape(()) if self.shape == () else np.resize(flat, self.shape)

    @property
    def raw(self) -> bytes:
        if self.datatype == "BF16":
            return encode_raw(float32_to_bf16(self.array.astype(np.float32)), "BF16")
        return encode_raw(self.array, self.datatype)

    @property
    def is_json(self) -> bool:
        """Whether JSON can carry the values: bytes that are no text need the binary form."""
        return self.datatype != "BYTES" or all(map(_is_text, self.array.ravel()))

    @property
    def values(self) -> list[Any]:
        """The flat list, as JSON or typed contents carry it."""
        flat = self.array.ravel()
        return flat.tolist() if self.datatype != "BYTES" else list(flat)

    def __str__(self) -> str:
        return f"{self.datatype}{list(self.shape)}"


def _is_text(item: bytes) -> bool:
    try:
        item.decode()
    except UnicodeDecodeError:
        return False
    return True


CASES = tuple(Case(datatype, shape) for datatype in DATATYPES for shape in SHAPES)
VECTORS = tuple(Case(datatype, (2, 2)) for datatype in DATATYPES)
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
