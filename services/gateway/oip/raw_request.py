"""A raw body: the bytes of a tensor and nothing else, for a model with exactly one input. Pure.

Asked for by the header Inference-Header-Content-Length: 0. What JSON would say is the model's to
say: name, datatype, and the shape, in which one axis may follow from the size. A text is one
element, without the length that it has among others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mesh.errors import InvalidArgument
from mesh.pb import inference_pb2 as oip
from mesh.tensor import find_datatype
from mesh.tensor.raw import LENGTH_PREFIX, refuse, show_shape
from services.gateway.oip.infer_request import HEADER_LENGTH_FIELD

ANY_LENGTH = -1


def make_raw_request(model: oip.ModelMetadataResponse, body: bytes) -> oip.ModelInferRequest:
    """The message, without its model, that a body means to this model."""
    if len(model.inputs) != 1:
        names = ", ".join(each.name for each in model.inputs) or "any"
        raise InvalidArgument(
            f"{HEADER_LENGTH_FIELD}: 0 needs a model with exactly one input; '{model.name}' takes "
            f"{names}",
            field=HEADER_LENGTH_FIELD,
        )
    (tensor,) = model.inputs
    field, shape = f"inputs.{tensor.name}", list(tensor.shape)
    request = oip.ModelInferRequest()
    if tensor.datatype == "BYTES":
        shape, body = _one_element(shape, field), LENGTH_PREFIX.pack(len(body)) + body
    else:
        shape = _fitting(shape, tensor.datatype, len(body), field)
    request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
    request.raw_input_contents.append(body)
    return request


def _one_element(shape: Sequence[int], field: str) -> list[int]:
    if any(axis not in (1, ANY_LENGTH) for axis in shape):
        raise refuse(field, f"shape {show_shape(shape)} takes more than the one text of a raw body")
    return [1] * len(shape)


def _fitting(shape: Sequence[int], datatype: str, size: int, field: str) -> list[int]:
    """The shape, with its one open axis as long as the bytes make it."""
    open_axes = [axis for axis, length in enumerate(shape) if length == ANY_LENGTH]
    if len(open_axes) > 1:
        raise refuse(field, f"shape {show_shape(shape)} does not follow from a raw body's size")
    if not open_axes:
        return list(shape)
    (axis,) = open_axes
    others = math.prod(length for length in shape if length != ANY_LENGTH)
    step = others * find_datatype(datatype, field=field).item_bytes
    if not step or size % step:
        whole = f"{datatype} of shape {show_shape(shape)}"
        raise refuse(field, f"{size} bytes are no {whole}, which comes in steps of {step} bytes")
    return [size // step if place == axis else length for place, length in enumerate(shape)]
