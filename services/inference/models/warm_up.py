"""Requests that a model answers before it is called ready: those that its manifest declares.

Values are made the same way each time, so that a warm-up that fails does so again.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from mesh.errors import FailedPrecondition, RingmeshError
from mesh.manifest import WarmUpRequest
from mesh.tensor import Array, Tensor, encode_raw, float32_to_bf16, json_to_raw
from mesh.tensor.raw import find_datatype
from mesh.warm_up_options import WarmUpTensor
from services.inference.batching.terms import OWN, Terms
from services.inference.models.tensor_model import Signature, TensorAnswer
from services.inference.oip.request import check_inputs


class Warmable(Protocol):
    """A model that can be asked."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""

    async def infer(self, inputs: tuple[Tensor, ...], terms: Terms) -> TensorAnswer:
        """Answers."""


async def answer_declared(model: Warmable, requests: Sequence[WarmUpRequest] | None) -> None:
    """Has the model answer each request as often as it says.

    Raises:
        FailedPrecondition: it cannot, and why.
    """
    for place, request in enumerate(requests or ()):
        try:
            tensors = make_inputs(request.inputs)
            check_inputs(tensors, model.signature, model.name)
            for _ in range(request.count):
                await model.infer(tensors, OWN)
        except RingmeshError as error:
            raise FailedPrecondition(f"warm_up.{place} failed: {error.message}") from error


def make_inputs(declared: Mapping[str, WarmUpTensor]) -> tuple[Tensor, ...]:
    """The tensors of a declared request."""
    return tuple(_tensor(name, spec) for name, spec in declared.items())


def fill_array(fill: str, datatype: str, shape: Sequence[int], name: str = "") -> Array:
    """An array of zeros, of ones, or of values that look random and are always those of `name`."""
    count = math.prod(shape)
    if datatype == "BYTES":
        return _texts(fill, count).reshape(shape)
    if fill == "random":
        values = np.random.default_rng(zlib.crc32(name.encode())).random(count)
        values = values if datatype.startswith(("FP", "BF")) else values.round()
    else:
        values = np.full(count, float(fill == "ones"))
    return _as_datatype(values, datatype).reshape(shape)


def _tensor(name: str, spec: WarmUpTensor) -> Tensor:
    if spec.values is not None:
        field = f"inputs.{name}"
        raw = json_to_raw(list(spec.values), spec.datatype, spec.shape, field=field)
    else:
        raw = encode_raw(fill_array(spec.fill, spec.datatype, spec.shape, name), spec.datatype)
    return Tensor(name, spec.datatype, spec.shape, raw)


def _as_datatype(values: Array, datatype: str) -> Array:
    if datatype == "BF16":
        return float32_to_bf16(values.astype("<f4"))
    return values.astype(find_datatype(datatype, field="warm_up").dtype)


def _texts(fill: str, count: int) -> Array:
    """Digits, so that models which read numbers from texts can read them."""
    digit = {"zeros": b"0", "ones": b"1"}
    array = np.empty(count, dtype=object)
    array[:] = [digit.get(fill, str(place % 10).encode()) for place in range(count)]
    return array
