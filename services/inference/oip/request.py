"""Checks a request of the Open Inference Protocol against what the model takes and gives: pure.

That each tensor's bytes fit its datatype and shape has been checked before, in `mesh.tensor`. What
is wrong is named, in the words that the caller used for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mesh.errors import InvalidArgument, Unimplemented
from mesh.pb.inference_pb2 import ModelInferRequest
from mesh.tensor import Tensor
from services.inference.models.tensor_model import Signature, TensorSpec


def check_inputs(tensors: Sequence[Tensor], signature: Signature, model: str) -> None:
    """Refuses inputs that the model does not take, and a lack of those that it does."""
    if signature.is_open:
        return
    specs = {spec.name: spec for spec in signature.inputs}
    for tensor in tensors:
        spec = specs.pop(tensor.name, None)
        if spec is None:
            known = ", ".join(each.name for each in signature.inputs)
            raise _refuse(f"inputs.{tensor.name}", f"model '{model}' takes no such input: {known}")
        _check_input(tensor, spec, model)
    for name, spec in specs.items():
        needs = f"{spec.datatype} of shape {show_shape(spec.shape)}"
        raise _refuse(f"inputs.{name}", f"missing; model '{model}' needs it, {needs}")


def requested_outputs(
    request: ModelInferRequest, tensors: Iterable[Tensor], signature: Signature
) -> tuple[str, ...]:
    """The names of the outputs to answer with, in the order of the request or of the model."""
    known = tuple(each.name for each in (tensors if signature.is_open else signature.outputs))
    if not request.outputs:
        return known
    names = tuple(output.name for output in request.outputs)
    for output in request.outputs:
        field = f"outputs.{output.name}"
        if output.name not in known:
            raise _refuse(field, f"there is no such output; known are {', '.join(known)}")
        if names.count(output.name) > 1:
            raise _refuse(field, "is asked for more than once")
        for parameter in ("shared_memory_region", "classification"):
            if parameter in output.parameters:
                raise Unimplemented(f"{field}: {parameter} is not offered")
    return names


def show_shape(shape: Iterable[int]) -> str:
    """A shape in the protocol's notation: `[-1,384]`."""
    return f"[{','.join(map(str, shape))}]"


def _check_input(tensor: Tensor, spec: TensorSpec, model: str) -> None:
    field = f"inputs.{tensor.name}"
    if tensor.datatype != spec.datatype:
        raise _refuse(field, f"model '{model}' takes {spec.datatype}, not {tensor.datatype}")
    fits = len(tensor.shape) == len(spec.shape) and all(
        wanted in (-1, got) for wanted, got in zip(spec.shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted, got = show_shape(spec.shape), show_shape(tensor.shape)
        raise _refuse(field, f"model '{model}' takes the shape {wanted}, not {got}")


def _refuse(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {problem}", field=field)
