"""Tensors on the wire of the Open Inference Protocol: datatypes, raw bytes, typed contents, JSON.

Pure functions between four forms of the same values: the raw little-endian row-major bytes that
every Ringmesh process passes on, numpy arrays, `InferTensorContents`, and JSON lists. It knows no
model: whether an input may have this name, datatype or shape is the node's business. Raw bytes are
the common form because a stock client reads nothing else, and because they travel uncopied.

BF16 has no numpy dtype and stays the `uint16` bit pattern in arrays, so that a process which only
passes tensors on needs no further package; `bf16_to_float32` and `float32_to_bf16` convert. JSON
carries finite numbers only: NaN and the infinities are not JSON, and need the binary form.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mesh.errors import InvalidArgument, Unimplemented
from mesh.pb.inference_pb2 import ModelInferRequest

Array = NDArray[Any]
Json = Any  # what a JSON parser returns: narrowed below, element by element

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
        """The values, see `decode_raw`."""
        return decode_raw(self.datatype, self.shape, self.raw, field=self.name)


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
        raise _refuse(field, f"unknown datatype {name!r}; the protocol has {known}")
    return datatype


def element_count(shape: Sequence[int], *, field: str) -> int:
    """The product of the dimensions: exact however large, 1 for a scalar, 0 with an empty axis."""
    if len(shape) > MAX_RANK:
        raise _refuse(field, f"shape has {len(shape)} dimensions, more than {MAX_RANK}")
    negative = next((dim for dim in shape if dim < 0), None)
    if negative is not None:
        raise _refuse(field, f"shape {_show(shape)} has the negative dimension {negative}")
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
        raise _refuse(
            field,
            f"got {len(raw)} bytes, but {datatype} of shape {_show(shape)} takes {needed} bytes",
        )


def decode_raw(datatype: str, shape: Sequence[int], raw: bytes, *, field: str) -> Array:
    """The array of `raw`: a read-only view of it, except BYTES (objects) and BOOL (normalised)."""
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


# --- typed contents ---------------------------------------------------------------------------


def contents_to_raw(tensor: ModelInferRequest.InferInputTensor) -> bytes:
    """The raw bytes of a tensor that carries its values in `contents`."""
    field = _input_field(tensor.name)
    kind = find_datatype(tensor.datatype, field=field)
    count = element_count(tensor.shape, field=field)
    if not kind.contents_field:
        raise _refuse(field, f"{kind.name} travels only in raw_input_contents")
    for descriptor, _ in tensor.contents.ListFields():
        if descriptor.name != kind.contents_field:
            expected = f"{kind.name} belongs in contents.{kind.contents_field}"
            raise _refuse(field, f"contents.{descriptor.name} is set, but {expected}")
    values = getattr(tensor.contents, kind.contents_field)
    if len(values) != count:
        raise _refuse(
            field,
            f"contents.{kind.contents_field} has {len(values)} elements, "
            f"but shape {_show(tensor.shape)} takes {count}",
        )
    return _encode_values(values, kind, field)


def validate_request(request: ModelInferRequest) -> tuple[Tensor, ...]:
    """Every input of the request with its raw bytes, whichever of the two forms carried them."""
    _refuse_duplicates(request.inputs)
    for tensor in request.inputs:
        _refuse_shared_memory(tensor)
    if request.raw_input_contents:
        raws: Iterable[bytes] = _raw_contents(request)
    else:
        raws = map(contents_to_raw, request.inputs)
    return tuple(_tensor(tensor, raw) for tensor, raw in zip(request.inputs, raws, strict=True))


def _tensor(tensor: ModelInferRequest.InferInputTensor, raw: bytes) -> Tensor:
    shape = tuple(tensor.shape)
    check_raw(tensor.datatype, shape, raw, field=_input_field(tensor.name))
    return Tensor(tensor.name, tensor.datatype, shape, raw)


def _raw_contents(request: ModelInferRequest) -> Sequence[bytes]:
    for tensor in request.inputs:
        if tensor.contents.ListFields():
            raise _refuse(
                _input_field(tensor.name),
                "has typed contents while the request also has raw_input_contents; use one form",
            )
    inputs, raws = len(request.inputs), len(request.raw_input_contents)
    if raws != inputs:
        names = ", ".join(tensor.name for tensor in request.inputs[raws:])
        detail = f"; missing for {names}" if raws < inputs else ""
        raise _refuse(
            "raw_input_contents", f"has {raws} entries for {inputs} inputs, one each{detail}"
        )
    return request.raw_input_contents


def _refuse_duplicates(inputs: Iterable[ModelInferRequest.InferInputTensor]) -> None:
    seen: set[str] = set()
    for tensor in inputs:
        if tensor.name in seen:
            raise _refuse(_input_field(tensor.name), "is given more than once")
        seen.add(tensor.name)


def _refuse_shared_memory(tensor: ModelInferRequest.InferInputTensor) -> None:
    if "shared_memory_region" in tensor.parameters:
        raise Unimplemented(
            f"{_input_field(tensor.name)}: shared memory is not offered; send the bytes"
        )


# --- JSON -------------------------------------------------------------------------------------


def json_to_raw(data: Json, datatype: str, shape: Sequence[int], *, field: str) -> bytes:
    """The raw bytes of a JSON list, flat in row-major order or nested as the shape says."""
    kind = find_datatype(datatype, field=field)
    count = element_count(shape, field=field)
    flat = _flatten(data, shape, field)
    if len(flat) != count:
        raise _refuse(
            field, f"data has {len(flat)} elements, but shape {_show(shape)} takes {count}"
        )
    _refuse_json_types(flat, kind, field)
    if kind.name == "BYTES":
        return b"".join(LENGTH_PREFIX.pack(len(item)) + item for item in _utf8(flat, field))
    if kind.name == "BF16" or kind.dtype.kind == "f":
        return _encode_floats(flat, kind, field)
    return _encode_values(flat, kind, field)


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
        raise _refuse(field, "holds NaN or infinity, which JSON cannot carry; ask for binary data")
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
        raise _refuse(field, f"{kind.name} takes {_JSON_NAMES[code]}, but element {index} is {got}")


def _flatten(data: Json, shape: Sequence[int], field: str) -> list[Json]:
    if not isinstance(data, list):
        raise _refuse(field, f"data must be a list, not {type(data).__name__}")
    level, axis = data, 0
    while axis + 1 < len(shape) and level and all(type(item) is list for item in level):
        _refuse_ragged(level, shape, axis, field)
        level, axis = list(chain.from_iterable(level)), axis + 1
    return level


def _refuse_ragged(level: list[list[Json]], shape: Sequence[int], axis: int, field: str) -> None:
    expected = shape[axis + 1]
    lengths = {len(item) for item in level} - {expected}
    if len(level) != math.prod(shape[: axis + 1]) or lengths:
        raise _refuse(field, f"nested data does not have the shape {_show(shape)}")


def _encode_floats(flat: Sequence[Json], kind: Datatype, field: str) -> bytes:
    try:
        wide = np.array(flat, dtype=np.float64)
    except OverflowError:  # an integer beyond the largest double
        raise _refuse(field, f"a value is out of the range of {kind.name}") from None
    if not np.isfinite(wide).all():
        raise _refuse(field, "NaN and infinity are not JSON; send binary data")
    narrow, seen = _narrow(wide, kind)
    overflow = ~np.isfinite(seen)
    if overflow.any():
        index = int(overflow.argmax())
        raise _refuse(field, f"element {index} ({flat[index]}) is out of the range of {kind.name}")
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
            raise _refuse(field, f"element {index} holds half of a surrogate pair") from None


def _text(item: bytes, field: str) -> str:
    try:
        return item.decode()
    except UnicodeDecodeError:
        raise _refuse(
            field, "holds bytes that are not UTF-8, which JSON cannot carry; ask for binary data"
        ) from None


# --- shared by the forms ----------------------------------------------------------------------


def _encode_values(values: Sequence[Any], kind: Datatype, field: str) -> bytes:
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
        raise _refuse(
            field,
            f"element {index} ({wrong}) is out of the range of {kind.name} "
            f"[{limits.min}, {limits.max}]",
        )


def _split_bytes(raw: bytes, count: int, shape: Sequence[int], field: str) -> Iterator[bytes]:
    """The elements of a BYTES tensor; refuses anything but exactly `count` of them."""
    offset, end = 0, len(raw)
    for index in range(min(count, end // LENGTH_PREFIX.size + 1)):
        if end - offset < LENGTH_PREFIX.size:
            raise _refuse(
                field, f"{end} bytes hold {index} elements, but shape {_show(shape)} takes {count}"
            )
        (length,) = LENGTH_PREFIX.unpack_from(raw, offset)
        offset += LENGTH_PREFIX.size
        if length > end - offset:
            left = end - offset
            raise _refuse(field, f"element {index} claims {length} bytes where {left} are left")
        yield raw[offset : offset + length]
        offset += length
    if offset != end:
        raise _refuse(
            field,
            f"{end - offset} of {end} bytes are left over after the {count} elements "
            f"of shape {_show(shape)}",
        )


def _reshape(array: Array, shape: Sequence[int], field: str) -> Array:
    try:
        return array.reshape(tuple(shape))
    except ValueError:  # an empty axis beside axes beyond what numpy can address
        raise _refuse(field, f"shape {_show(shape)} is too large") from None


def _input_field(name: str) -> str:
    return f"inputs.{name}"


def _show(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def _refuse(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {problem}", field=field)
