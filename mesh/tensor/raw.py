"""Raw bytes and arrays: the datatypes of the protocol, and what a tensor of each looks like."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mesh.errors import InvalidArgument

Array = NDArray[Any]

MAX_RANK: Final = 32  # numpy refuses more than 64 axes; no model has more than a handful
LENGTH_PREFIX: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Datatype:
    """What the protocol says of one datatype. `item_bytes` is 0 where the size varies (BYTES)."""

    name: str
    dtype: np.dtype[Any]
    item_bytes: int
    contents_field: str  # empty: only raw bytes may carry it


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor whose raw bytes are known to fit its datatype and shape."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes

    def array(self) -> Array:
        """The values of an input, see `decode_raw`."""
        return decode_raw(self.datatype, self.shape, self.raw, field=f"inputs.{self.name}")


def _datatype_table() -> Mapping[str, Datatype]:
    rows = (
        ("BOOL", "?", "bool_contents"),
        ("UINT8", "u1", "uint_contents"),
        ("UINT16", "<u2", "uint_contents"),
        ("UINT32", "<u4", "uint_contents"),
        ("UINT64", "<u8", "uint64_contents"),
        ("INT8", "i1", "int_contents"),
        ("INT16", "<i2", "int_contents"),
        ("INT32", "<i4", "int_contents"),
        ("INT64", "<i8", "int64_contents"),
        ("FP16", "<f2", ""),
        ("BF16", "<u2", ""),
        ("FP32", "<f4", "fp32_contents"),
        ("FP64", "<f8", "fp64_contents"),
    )
    fixed = {name: Datatype(name, np.dtype(d), np.dtype(d).itemsize, c) for name, d, c in rows}
    return MappingProxyType(
        fixed | {"BYTES": Datatype("BYTES", np.dtype(object), 0, "bytes_contents")}
    )


DATATYPES: Final = _datatype_table()


def find_datatype(name: str, *, field: str) -> Datatype:
    """The datatype of this name; refuses a name that the protocol does not have."""
    datatype = DATATYPES.get(name)
    if datatype is None:
        known = ", ".join(DATATYPES)
        raise refuse(field, f"unknown datatype {name!r}; the protocol has {known}")
    return datatype


def element_count(shape: Sequence[int], *, field: str) -> int:
    """The product of the dimensions: exact however large, 1 for a scalar, 0 with an empty axis."""
    if len(shape) > MAX_RANK:
        raise refuse(field, f"shape has {len(shape)} dimensions, more than {MAX_RANK}")
    negative = next((dim for dim in shape if dim < 0), None)
    if negative is not None:
        raise refuse(field, f"shape {show_shape(shape)} has the negative dimension {negative}")
    return math.prod(shape)


def check_raw(datatype: str, shape: Sequence[int], raw: bytes, *, field: str) -> None:
    """Refuses raw bytes that are not exactly one tensor of this datatype and shape."""
    kind = find_datatype(datatype, field=field)
    count = element_count(shape, field=field)
    if kind.item_bytes == 0:
        for _ in _split_bytes(raw, count, shape, field):
            pass
    elif len(raw) != count * kind.item_bytes:
        needed = count * kind.item_bytes
        whole = f"{datatype} of shape {show_shape(shape)}"
        raise refuse(field, f"got {len(raw)} bytes, but {whole} takes {needed} bytes")


def decode_raw(datatype: str, shape: Sequence[int], raw: bytes, *, field: str) -> Array:
    """The array of `raw`: a read-only view, except BYTES (objects) and BOOL (normalised)."""
    kind = find_datatype(datatype, field=field)
    if kind.item_bytes == 0:
        items = list(_split_bytes(raw, element_count(shape, field=field), shape, field))
        array = np.empty(len(items), dtype=object)
        array[:] = items
        return _reshape(array, shape, field)
    check_raw(datatype, shape, raw, field=field)
    if datatype == "BOOL":  # any byte but 0 is true, as in C; numpy's own bool must be 0 or 1
        return _reshape(np.frombuffer(raw, dtype=np.uint8) != 0, shape, field)
    return _reshape(np.frombuffer(raw, dtype=kind.dtype), shape, field)


def encode_raw(array: Array, datatype: str) -> bytes:
    """The raw bytes of `array`, whose values must already fit `datatype` (BF16: bit patterns)."""
    kind = find_datatype(datatype, field="array")
    if kind.item_bytes == 0:
        return b"".join(LENGTH_PREFIX.pack(len(item)) + item for item in array.ravel())
    return np.ascontiguousarray(array, dtype=kind.dtype).tobytes()


def float32_to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounds to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype="<f4").view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet_nan, rounded).astype("<u2")


def bf16_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Exact: every BF16 value is a float32 value."""
    return (bits.astype("<u4") << 16).view("<f4")


def encode_values(values: Sequence[Any], kind: Datatype, field: str) -> bytes:
    """The raw bytes of Python values of the right types; an integer may be out of range."""
    if kind.item_bytes == 0:
        return b"".join(LENGTH_PREFIX.pack(len(item)) + item for item in values)
    if kind.dtype.kind in "iu" and len(values):
        _refuse_out_of_range(values, kind, field)
    return np.array(values, dtype=kind.dtype).tobytes()


def _refuse_out_of_range(values: Sequence[int], kind: Datatype, field: str) -> None:
    limits = np.iinfo(kind.dtype)
    low, high = min(values), max(values)
    if low < limits.min or high > limits.max:
        wrong = low if low < limits.min else high
        index = list(values).index(wrong)
        raise refuse(
            field,
            f"element {index} ({wrong}) is out of the range of {kind.name} "
            f"[{limits.min}, {limits.max}]",
        )


def show_shape(shape: Sequence[int]) -> str:
    """A shape in the protocol's notation: `[-1,384]`."""
    return "[" + ",".join(map(str, shape)) + "]"


def refuse(field: str, problem: str) -> InvalidArgument:
    """An error that names the field, in its message too."""
    return InvalidArgument(f"{field}: {problem}", field=field)


def _split_bytes(raw: bytes, count: int, shape: Sequence[int], field: str) -> Iterator[bytes]:
    """The elements of a BYTES tensor; refuses anything but exactly `count` of them."""
    offset, end = 0, len(raw)
    for index in range(min(count, end // LENGTH_PREFIX.size + 1)):
        if end - offset < LENGTH_PREFIX.size:
            raise refuse(
                field,
                f"{end} bytes hold {index} elements, but shape {show_shape(shape)} takes {count}",
            )
        (length,) = LENGTH_PREFIX.unpack_from(raw, offset)
        offset += LENGTH_PREFIX.size
        if length > end - offset:
            left = end - offset
            raise refuse(field, f"element {index} claims {length} bytes where {left} are left")
        yield raw[offset : offset + length]
        offset += length
    if offset != end:
        raise refuse(
            field,
            f"{end - offset} of {end} bytes are left over after the {count} elements "
            f"of shape {show_shape(shape)}",
        )


def _reshape(array: Array, shape: Sequence[int], field: str) -> Array:
    try:
        return array.reshape(tuple(shape))
    except ValueError:  # an empty axis beside axes beyond what numpy can address
        raise refuse(field, f"shape {show_shape(shape)} is too large") from None
