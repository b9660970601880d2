"""An inference response into REST: JSON, or JSON and then raw bytes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mesh.pb import inference_pb2 as oip
from mesh.tensor import contents_to_raw, raw_to_json
from services.gateway.http.json import dump_json
from services.gateway.oip.infer_request import BINARY_SIZE, OutputForm
from services.gateway.oip.parameters import render_parameters
from services.gateway.oip.shared_tensor import REGION


@dataclass(frozen=True, slots=True)
class InferBody:
    """A rendered response; `header_length` is that of the JSON part, None if there is no other."""

    body: bytes
    header_length: int | None


def render_infer_response(response: oip.ModelInferResponse, form: OutputForm) -> InferBody:
    """The body that a REST client gets."""
    blobs: list[bytes] = []
    outputs: list[dict[str, Any]] = []
    for index, tensor in enumerate(response.outputs):
        raw = _raw(response, index)
        rendered = _tensor(tensor)
        if REGION in tensor.parameters:
            pass  # it is there already
        elif form.is_binary(tensor.name):
            rendered.setdefault("parameters", {})[BINARY_SIZE] = len(raw)
            blobs.append(raw)
        else:
            rendered["data"] = _data(tensor, raw)
        outputs.append(rendered)
    text = dump_json(_head(response) | {"outputs": outputs})
    if not blobs:
        return InferBody(text, None)
    return InferBody(b"".join((text, *blobs)), len(text))


def _head(response: oip.ModelInferResponse) -> dict[str, Any]:
    head: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
    }
    if response.id:
        head["id"] = response.id
    if response.parameters:
        head["parameters"] = render_parameters(response.parameters)
    return head


def _tensor(tensor: oip.ModelInferResponse.InferOutputTensor) -> dict[str, Any]:
    rendered: dict[str, Any] = {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.shape),
    }
    if tensor.parameters:
        rendered["parameters"] = render_parameters(tensor.parameters)
    return rendered


def _raw(response: oip.ModelInferResponse, index: int) -> bytes:
    if response.raw_output_contents:
        return response.raw_output_contents[index]
    tensor = response.outputs[index]
    # The two messages have the same fields, and the conversion reads only those.
    alike = oip.ModelInferRequest.InferInputTensor.FromString(tensor.SerializeToString())
    return contents_to_raw(alike)


def _data(tensor: oip.ModelInferResponse.InferOutputTensor, raw: bytes) -> list[Any]:
    return raw_to_json(raw, tensor.datatype, tensor.shape, field=f"outputs.{tensor.name}")
