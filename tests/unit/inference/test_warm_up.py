"""Declared warm-up requests become tensors, the same each time."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from mesh.errors import FailedPrecondition, InvalidArgument
from mesh.manifest import WarmUpRequest
from mesh.tensor import Tensor
from mesh.warm_up_options import DatatypeName
from services.inference.batching.terms import Terms
from services.inference.models.tensor_model import Signature, TensorAnswer, TensorSpec
from services.inference.models.timing import Timing
from services.inference.models.warm_up import answer_declared, make_inputs


class Recorder:
    """A model that remembers what it was asked."""

    name = "m"
    signature = Signature("test", inputs=(TensorSpec("x", "INT32", (-1,)),))

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, ...]] = []

    async def infer(self, inputs: tuple[Tensor, ...], terms: Terms) -> TensorAnswer:
        self.asked.append(inputs)
        if not inputs[0].shape[0]:
            raise InvalidArgument("inputs.x: is empty", field="inputs.x")
        return TensorAnswer((), Timing(0, 0))


def request(count: int = 1, **tensor: Any) -> WarmUpRequest:
    return WarmUpRequest.model_validate({"inputs": {"x": tensor}, "count": count})


@pytest.mark.parametrize("datatype", get_args(DatatypeName))
@pytest.mark.parametrize("fill", ["zeros", "ones", "random"])
def test_every_datatype_can_be_filled(datatype: str, fill: str) -> None:
    asked = request(datatype=datatype, shape=[2, 3], fill=fill).inputs
    (tensor,), (again,) = make_inputs(asked), make_inputs(asked)
    assert tensor == again
    array = tensor.array()
    assert array.shape == (2, 3)
    values = {0, 1} if datatype in ("FP16", "FP32", "FP64") else set(array.ravel())
    if datatype == "BYTES":
        assert {each.isdigit() for each in array.ravel()} == {True}
    elif fill != "random":
        one = 0x3F80 if datatype == "BF16" else 1
        assert set(array.ravel()) == {one if fill == "ones" else 0}
    elif datatype != "BF16":
        assert values <= {0, 1}
        assert 0 <= array.min() <= array.max() <= 1


def test_values_are_taken_as_they_stand() -> None:
    asked = request(datatype="INT16", shape=[3], values=[3, -2, 1]).inputs
    assert make_inputs(asked)[0].array().tolist() == [3, -2, 1]
    texts = request(datatype="BYTES", shape=[2], values=["a", "é"]).inputs
    assert make_inputs(texts)[0].array().tolist() == [b"a", "é".encode()]


async def test_each_request_is_answered_as_often_as_it_says() -> None:
    model = Recorder()
    await answer_declared(model, [request(datatype="INT32", shape=[1], count=3)])
    assert len(model.asked) == 3
    await answer_declared(model, None)
    assert len(model.asked) == 3


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"datatype": "INT32", "shape": [0]}, r"warm_up\.1 failed: inputs\.x: is empty"),
        ({"datatype": "INT32", "shape": [1, 1]}, r"warm_up\.1 failed: inputs\.x: .*\[-1\]"),
        ({"datatype": "FP32", "shape": [1]}, r"warm_up\.1 failed: .* takes INT32"),
        ({"datatype": "INT32", "shape": [1], "values": ["a"]}, r"warm_up\.1 failed: .*integers"),
    ],
)
async def test_one_that_fails_says_which_and_why(tensor: dict[str, Any], message: str) -> None:
    good = request(datatype="INT32", shape=[1])
    with pytest.raises(FailedPrecondition, match=message):
        await answer_declared(Recorder(), [good, request(**tensor)])
