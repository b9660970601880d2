"""JSON lists, flat or nested, and raw bytes.

JSON carries finite numbers only: NaN and the infinities are not JSON, and need the binary form.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mesh.tensor.raw import (
    LENGTH_PREFIX,
    Array,
    Datatype,
    bf16_to_float32,
    decode_raw,
    element_count,
    encode_values,
    find_datatype,
    float32_to_bf16,
    refuse,
    show_shape,
)

Json = Any  # what a JSON parser returns: narrowed below, element by element


def json_to_raw(data: Json, datatype: str, shape: Sequence[int], *, field: str) -> bytes:
    """The raw bytes of a JSON list, flat in row-major order or nested as the shape says."""
    kind = find_datatype(datatype, field=field)
    count = element_count(shape, field=field)
    flat = _flatten(data, shape, field)
    if len(flat) != count:
        raise refuse(
            field, f"data has {len(flat)} elements, but shape {show_shape(shape)} takes {count}"
        )
    _refuse_json_types(flat, kind, field)
    if kind.name == "BYTES":
        return b"".join(LENGTH_PREFIX.pack(len(item)) + item for item in _utf8(flat, field))
    if kind.name == "BF16" or kind.dtype.kind == "f":
        return _encode_floats(flat, kind, field)
    return encode_values(flat, kind, field)


def raw_to_json(
    raw: bytes, datatype: str, shape: Sequence[int], *, field: str = "output"
) -> list[Any]:
    """The flat row-major JSON list of a tensor."""
    array = decode_raw(datatype, shape, raw, field=field).ravel()
    if datatype == "BYTES":
        return [_text(item, field) for item in array]
    if datatype == "BF16":
        array = bf16_to_float32(array)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise refuse(field, "holds NaN or infinity, which JSON cannot carry; ask for binary data")
    values: list[Any] = array.tolist()
    return values


_JSON_TYPES: Final[Mapping[str, tuple[type, ...]]] = MappingProxyType(
    {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float), "O": (str,)}
)
_JSON_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"b": "true or false", "i": "integers", "u": "integers", "f": "numbers", "O": "strings"}
)


def _refuse_json_types(flat: Sequence[Json], kind: Datatype, field: str) -> None:
    code = "f" if kind.name == "BF16" else kind.dtype.kind
    strangers = set(map(type, flat)).difference(_JSON_TYPES[code])
    if strangers:
        index = next(i for i, value in enumerate(flat) if type(value) in strangers)
        got = "a list" if isinstance(flat[index], list) else repr(flat[index])[:60]
        raise refuse(field, f"{kind.name} takes {_JSON_NAMES[code]}, but element {index} is {got}")


def _flatten(data: Json, shape: Sequence[int], field: str) -> list[Json]:
    if not isinstance(data, list):
        raise refuse(field, f"data must be a list, not {type(data).__name__}")
    level, axis = data, 0
    while axis + 1 < len(shape) and level and all(type(item) is list for item in level):
        _refuse_ragged(level, shape, axis, field)
        level, axis = list(chain.from_iterable(level)), axis + 1
    return level


def _refuse_ragged(level: list[list[Json]], shape: Sequence[int], axis: int, field: str) -> None:
    expected = shape[axis + 1]
    lengths = {len(item) for item in level} - {expected}
    if len(level) != math.prod(shape[: axis + 1]) or lengths:
        raise refuse(field, f"nested data does not have the shape {show_shape(shape)}")


def _encode_floats(flat: Sequence[Json], kind: Datatype, field: str) -> bytes:
    try:
        wide = np.array(flat, dtype=np.float64)
    except OverflowError:  # an integer beyond the largest double
        raise refuse(field, f"a value is out of the range of {kind.name}") from None
    if not np.isfinite(wide).all():
        raise refuse(field, "NaN and infinity are not JSON; send binary data")
    narrow, seen = _narrow(wide, kind)
    overflow = ~np.isfinite(seen)
    if overflow.any():
        index = int(overflow.argmax())
        raise refuse(field, f"element {index} ({flat[index]}) is out of the range of {kind.name}")
    return narrow.tobytes()


def _narrow(wide: NDArray[np.float64], kind: Datatype) -> tuple[Array, Array]:
    """The values as they are stored, and as numbers: infinite where they did not fit."""
    with np.errstate(over="ignore"):
        if kind.name == "BF16":
            bits = float32_to_bf16(wide.astype("<f4"))
            return bits, bf16_to_float32(bits)
        narrow = wide.astype(kind.dtype)
    return narrow, narrow


def _utf8(flat: Sequence[str], field: str) -> Iterator[bytes]:
    for index, text in enumerate(flat):
        try:
            yield text.encode()
        except UnicodeEncodeError:  # "\ud800" is legal JSON and no character
            raise refuse(field, f"element {index} holds half of a surrogate pair") from None


def _text(item: bytes, field: str) -> str:
    try:
        return item.decode()
    except UnicodeDecodeError:
        raise refuse(
            field, "holds bytes that are not UTF-8, which JSON cannot carry; ask for binary data"
        ) from None
