"""An inference request from REST into the protocol's message.

The body is JSON, or JSON followed by the raw bytes of those inputs that say `binary_data_size`; the
header Inference-Header-Content-Length tells where the JSON ends. Whatever form an input came in, it
leaves as raw bytes. How each output is to be returned (JSON or binary) is settled here as well,
because only the request knows. Pure; whether the tensors suit the model is the node's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import InvalidArgument
from mesh.pb import inference_pb2 as oip
from mesh.tensor import json_to_raw
from services.gateway.http.json import parse_json
from services.gateway.oip.parameters import INT64, parse_parameters
from services.gateway.oip.shared_tensor import REGION

HEADER_LENGTH_FIELD = "Inference-Header-Content-Length"
HEADER_LENGTH = HEADER_LENGTH_FIELD.lower()
LENGTH_DIGITS = 19

# These say how tensors travel over HTTP, which is over once the request is a message.
BINARY_OUTPUT_DEFAULT = "binary_data_output"
BINARY_OUTPUT = "binary_data"
BINARY_SIZE = "binary_data_size"


@dataclass(frozen=True, slots=True)
class OutputForm:
    """Which outputs the client wants in binary: by name, and for those it does not name."""

    default: bool = False
    by_name: Mapping[str, bool] = field(default_factory=dict)

    def is_binary(self, name: str) -> bool:
        """Whether this output is to be returned in binary."""
        return self.by_name.get(name, self.default)


def parse_infer_request(
    body: bytes, header_length: str | None
) -> tuple[oip.ModelInferRequest, OutputForm]:
    """The message without its model, and the form in which the outputs are wanted."""
    text, blob = split_body(body, header_length)
    document = _object(parse_json(text), "body")
    request = oip.ModelInferRequest(id=_string(document, "id", "", "id"))
    blobs = _Blobs(blob)
    for index, tensor in enumerate(_list(document, "inputs")):
        _add_input(request, _object(tensor, f"inputs[{index}]"), index, blobs)
    blobs.check_empty()
    parse_parameters(document.get("parameters"), request.parameters, field="parameters")
    default = _take_flag(request.parameters, BINARY_OUTPUT_DEFAULT, "parameters")
    by_name = dict(_add_outputs(request, document))
    return request, OutputForm(bool(default), by_name)


def split_body(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    """The JSON part and the binary part."""
    if header_length is None:
        return body, b""
    length = _length(header_length)
    if length is None or length > len(body):
        raise InvalidArgument(
            f"{HEADER_LENGTH_FIELD} {header_length[:40]!r} is not a length within "
            f"the {len(body)} bytes of the body",
            field=HEADER_LENGTH_FIELD,
        )
    return body[:length], body[length:]


def is_raw(header_length: str | None) -> bool:
    """Whether the body has no JSON part."""
    return header_length is not None and _length(header_length) == 0


def _length(text: str) -> int | None:
    is_number = text.isdecimal() and len(text) <= LENGTH_DIGITS
    return int(text) if is_number else None


class _Blobs:
    """Hands out the binary part piece by piece."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def take(self, size: int, where: str) -> bytes:
        if size > len(self._data):
            raise InvalidArgument(
                f"{where}: {size} binary bytes are announced, but {len(self._data)} are left",
                field=where,
            )
        piece, self._data = self._data[:size], self._data[size:]
        return bytes(piece)

    def check_empty(self) -> None:
        if len(self._data):
            raise InvalidArgument(
                f"{len(self._data)} bytes follow the last binary input", field="inputs"
            )


def _add_input(
    request: oip.ModelInferRequest, document: dict[str, Any], index: int, blobs: _Blobs
) -> None:
    name = _string(document, "name", None, f"inputs[{index}].name")
    where = f"inputs.{name}"
    datatype = _string(document, "datatype", None, f"{where}.datatype")
    shape = _shape(document, where)
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    parse_parameters(document.get("parameters"), tensor.parameters, field=f"{where}.parameters")
    size = _take_size(tensor.parameters, where)
    if REGION in tensor.parameters:
        if size is not None or "data" in document:
            raise InvalidArgument(f"{where} is in shared memory and sent as well", field=where)
        return
    if size is not None:
        if "data" in document:
            raise InvalidArgument(f"{where} has both data and {BINARY_SIZE}", field=where)
        request.raw_input_contents.append(blobs.take(size, where))
    elif "data" in document:
        request.raw_input_contents.append(
            json_to_raw(document["data"], datatype, shape, field=where)
        )
    else:
        raise InvalidArgument(f"{where} has neither data nor {BINARY_SIZE}", field=f"{where}.data")


def _add_outputs(
    request: oip.ModelInferRequest, document: dict[str, Any]
) -> Iterator[tuple[str, bool]]:
    for index, each in enumerate(_list(document, "outputs", required=False)):
        output = _object(each, f"outputs[{index}]")
        name = _string(output, "name", None, f"outputs[{index}].name")
        message = request.outputs.add(name=name)
        where = f"outputs.{name}.parameters"
        parse_parameters(output.get("parameters"), message.parameters, field=where)
        binary = _take_flag(message.parameters, BINARY_OUTPUT, where)
        if binary is not None:
            yield name, binary


def _take_flag(parameters: Any, key: str, where: str) -> bool | None:
    if key not in parameters:
        return None
    parameter = parameters.pop(key)
    if parameter.WhichOneof("parameter_choice") != "bool_param":
        raise InvalidArgument(f"{where}.{key} must be true or false", field=f"{where}.{key}")
    value: bool = parameter.bool_param
    return value


def _take_size(parameters: Any, where: str) -> int | None:
    if BINARY_SIZE not in parameters:
        return None
    parameter = parameters.pop(BINARY_SIZE)
    is_int = parameter.WhichOneof("parameter_choice") == "int64_param"
    if not is_int or parameter.int64_param < 0:
        field_name = f"{where}.parameters.{BINARY_SIZE}"
        raise InvalidArgument(f"{field_name} must be a number of bytes", field=field_name)
    size: int = parameter.int64_param
    return size


def _shape(document: dict[str, Any], where: str) -> list[int]:
    shape = document.get("shape")
    if not isinstance(shape, list) or not all(type(d) is int and d in INT64 for d in shape):
        raise InvalidArgument(f"{where}.shape must be a list of integers", field=f"{where}.shape")
    return shape


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where} must be a JSON object", field=where)
    return value


def _list(document: dict[str, Any], key: str, *, required: bool = True) -> list[Any]:
    value = document.get(key)
    if value is None and not required:
        return []
    if not isinstance(value, list):
        raise InvalidArgument(f"{key} must be a list", field=key)
    return value


def _string(document: dict[str, Any], key: str, default: str | None, where: str) -> str:
    value = document.get(key, default)
    if not isinstance(value, str):
        raise InvalidArgument(f"{where} must be a string", field=where)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{where} is not valid Unicode", field=where) from None
    return value
