"""Checks a request of the Open Inference Protocol against what the model takes and gives: pure.

That each tensor's bytes fit its datatype and shape has been checked before, in `mesh.tensor`. What
is wrong is named, in the words that the caller used for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from mesh.errors import InvalidArgument, Unimplemented
from mesh.pb.inference_pb2 import ModelInferRequest
from mesh.tensor import Tensor
from services.inference.models.tensor_model import Signature, TensorSpec
from services.inference.oip.classification import PARAMETER, check_ranks, requested_classes

MAX_NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output to answer with: the tensor itself, or its `classes` largest values."""

    name: str
    classes: int = 0
    labels: tuple[str, ...] = ()


def check_inputs(tensors: Sequence[Tensor], signature: Signature, model: str) -> None:
    """Refuses inputs that the model does not take, and a lack of those that it does."""
    if signature.is_open:
        return
    specs = {spec.name: spec for spec in signature.inputs}
    for tensor in tensors:
        spec = specs.pop(tensor.name, None)
        if spec is None:
            known = _some(each.name for each in signature.inputs)
            raise _refuse(
                f"inputs.{tensor.name}", f"model '{model}' takes no such input; known are {known}"
            )
        _check_input(tensor, spec, model)
    for name, spec in specs.items():
        needs = f"{spec.datatype} of shape {show_shape(spec.shape)}"
        raise _refuse(f"inputs.{name}", f"missing; model '{model}' needs it, {needs}")


def requested_outputs(
    request: ModelInferRequest, tensors: Iterable[Tensor], signature: Signature
) -> tuple[WantedOutput, ...]:
    """The outputs to answer with, in the order of the request or of the model."""
    known = {each.name: each for each in (_as_given(tensors, signature) or signature.outputs)}
    if not request.outputs:
        return tuple(map(WantedOutput, known))
    asked = Counter(output.name for output in request.outputs)
    return tuple(_wanted(output, asked, known) for output in request.outputs)


def _as_given(tensors: Iterable[Tensor], signature: Signature) -> list[TensorSpec]:
    """The outputs of a model that gives back what it gets."""
    given = tensors if signature.is_open else ()
    return [TensorSpec(each.name, each.datatype, each.shape) for each in given]


def _wanted(
    output: ModelInferRequest.InferRequestedOutputTensor,
    asked: Mapping[str, int],
    known: Mapping[str, TensorSpec],
) -> WantedOutput:
    field, spec = f"outputs.{output.name}", known.get(output.name)
    if spec is None:
        raise _refuse(field, f"there is no such output; known are {_some(known)}")
    if asked[output.name] > 1:
        raise _refuse(field, "is asked for more than once")
    if "shared_memory_region" in output.parameters:
        raise Unimplemented(f"{field}: shared_memory_region is not offered")
    classes = 0
    if PARAMETER in output.parameters:
        classes = requested_classes(output.parameters[PARAMETER], field=field)
    if classes:
        check_ranks(spec.datatype, field=field)
    return WantedOutput(output.name, classes, spec.labels)


def show_shape(shape: Iterable[int]) -> str:
    """A shape in the protocol's notation: `[-1,384]`."""
    return f"[{','.join(map(str, shape))}]"


def _some(names: Iterable[str]) -> str:
    """The first of the names, and whether there are more."""
    shown = list(islice(names, MAX_NAMES_SHOWN + 1))
    more = ", ..." if len(shown) > MAX_NAMES_SHOWN else ""
    return ", ".join(shown[:MAX_NAMES_SHOWN]) + more


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
