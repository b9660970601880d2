"""Requests that carry tensors as typed `InferTensorContents` or as raw bytes, to one form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mesh.errors import Unimplemented
from mesh.pb.inference_pb2 import ModelInferRequest
from mesh.tensor.raw import (
    Tensor,
    check_raw,
    element_count,
    encode_values,
    find_datatype,
    refuse,
    show_shape,
)


def contents_to_raw(tensor: ModelInferRequest.InferInputTensor) -> bytes:
    """The raw bytes of a tensor that carries its values in `contents`."""
    field = _input_field(tensor.name)
    kind = find_datatype(tensor.datatype, field=field)
    count = element_count(tensor.shape, field=field)
    if not kind.contents_field:
        raise refuse(field, f"{kind.name} travels only in raw_input_contents")
    for descriptor, _ in tensor.contents.ListFields():
        if descriptor.name != kind.contents_field:
            expected = f"{kind.name} belongs in contents.{kind.contents_field}"
            raise refuse(field, f"contents.{descriptor.name} is set, but {expected}")
    values = getattr(tensor.contents, kind.contents_field)
    if len(values) != count:
        raise refuse(
            field,
            f"contents.{kind.contents_field} has {len(values)} elements, "
            f"but shape {show_shape(tensor.shape)} takes {count}",
        )
    return encode_values(values, kind, field)


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
            raise refuse(
                _input_field(tensor.name),
                "has typed contents while the request also has raw_input_contents; use one form",
            )
    inputs, raws = len(request.inputs), len(request.raw_input_contents)
    if raws != inputs:
        names = ", ".join(tensor.name for tensor in request.inputs[raws:])
        detail = f"; missing for {names}" if raws < inputs else ""
        raise refuse(
            "raw_input_contents", f"has {raws} entries for {inputs} inputs, one each{detail}"
        )
    return request.raw_input_contents


def _refuse_duplicates(inputs: Iterable[ModelInferRequest.InferInputTensor]) -> None:
    seen: set[str] = set()
    for tensor in inputs:
        if tensor.name in seen:
            raise refuse(_input_field(tensor.name), "is given more than once")
        seen.add(tensor.name)


def _refuse_shared_memory(tensor: ModelInferRequest.InferInputTensor) -> None:
    if "shared_memory_region" in tensor.parameters:
        raise Unimplemented(
            f"{_input_field(tensor.name)}: shared memory is not offered; send the bytes"
        )


def _input_field(name: str) -> str:
    return f"inputs.{name}"
