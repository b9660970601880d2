"""Tensors on the wire of the Open Inference Protocol: datatypes, raw bytes, typed contents, JSON.

Pure functions between four forms of the same values: the raw little-endian row-major bytes that
every Ringmesh process passes on, numpy arrays, `InferTensorContents`, and JSON lists. It knows no
model: whether an input may have this name, datatype or shape is the node's business. Raw bytes are
the common form because a stock client reads nothing else, and because they travel uncopied.

BF16 has no numpy dtype and stays the `uint16` bit pattern in arrays, so that a process which only
passes tensors on needs no further package; `bf16_to_float32` and `float32_to_bf16` convert. JSON
carries finite numbers only: NaN and the infinities are not JSON, and need the binary form.
"""

from mesh.tensor.contents import contents_to_raw, validate_request
from mesh.tensor.json_form import json_to_raw, raw_to_json
from mesh.tensor.raw import (
    DATATYPES,
    Array,
    Datatype,
    Tensor,
    bf16_to_float32,
    check_raw,
    decode_raw,
    element_count,
    encode_raw,
    find_datatype,
    float32_to_bf16,
)

__all__ = [
    "DATATYPES",
    "Array",
    "Datatype",
    "Tensor",
    "bf16_to_float32",
    "check_raw",
    "contents_to_raw",
    "decode_raw",
    "element_count",
    "encode_raw",
    "find_datatype",
    "float32_to_bf16",
    "json_to_raw",
    "raw_to_json",
    "validate_request",
]
