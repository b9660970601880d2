"""Which graphs OpenVINO may be given: pure.

Its kernels trust what they are told. A graph in which a caller's numbers say where to read
(GatherND), how to cut (Split by lengths) or in what steps to count (Range) lets a caller read the
process's memory or end it: each of these was seen. So a graph may have such operators only as are
known to keep to their memory, and a caller's numbers may be data in it, never shapes, axes or
places. What depends on the shapes of the inputs alone is fine: those have been checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_WITHOUT_PLACES: Final = frozenset(
    """
    Abs Acos Acosh Add Asin Asinh Atan Atanh AvgPool BatchNormInference BitwiseAnd BitwiseNot
    BitwiseOr BitwiseXor Ceiling Clamp Concat Constant Convert ConvertLike Convolution Cos Cosh
    DepthToSpace Divide Elu Equal Erf Exp FakeQuantize Floor Gelu Greater GreaterEqual
    GroupConvolution GroupNormalization HSigmoid HSwish HardSigmoid Identity IsFinite IsInf IsNaN
    Less LessEqual Log LogSoftmax LogicalAnd LogicalNot LogicalOr LogicalXor MatMul MaxPool Maximum
    Minimum Mish Multiply Negative NotEqual PRelu Parameter Power RMS Relu Result Round
    ScaledDotProductAttention Select Selu ShapeOf Sigmoid Sign Sin Sinh SoftPlus SoftSign Softmax
    SpaceToDepth Sqrt SquaredDifference Subtract Swish Tan Tanh
    """.split()  # noqa: SIM905 - a hundred lines otherwise
)
"""All their inputs are data."""

_DATA_INPUTS: Final = {
    # An index beyond the table gives zeros.
    "Gather": 2,
    "Range": 0,
    "ConvolutionBackpropData": 2,
    "GroupConvolutionBackpropData": 2,
    **dict.fromkeys(
        """
        AdaptiveAvgPool AdaptiveMaxPool Broadcast CumSum LRN MVN NormalizeL2 Pad ReduceL1 ReduceL2
        ReduceLogicalAnd ReduceLogicalOr ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Reshape
        Slice Split Squeeze StridedSlice Tile TopK Transpose Unsqueeze VariadicSplit
        """.split(),  # noqa: SIM905 - as above
        1,
    ),
}
"""How many of their inputs are data; those behind them are shapes, axes and places."""

_CALLERS: Final = "Parameter"
_SHAPE: Final = "ShapeOf"


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of a graph; `sources` are the names of those that its inputs come from."""

    name: str
    kind: str
    sources: tuple[str, ...] = ()


def find_hazard(operators: Iterable[Operator]) -> str | None:
    """Why a graph is not to be run there, or None; operators come behind their sources."""
    numbers: set[str] = set()  # whose values are a caller's
    for each in operators:
        if each.kind not in _WITHOUT_PLACES and each.kind not in _DATA_INPUTS:
            return f"{each.kind} ({each.name}) is not known to keep to its own memory"
        data = _DATA_INPUTS.get(each.kind, len(each.sources))
        if numbers.intersection(each.sources[data:]):
            return f"{each.kind} ({each.name}) takes a place from an input, and does not check it"
        if each.kind == _CALLERS or (each.kind != _SHAPE and numbers.intersection(each.sources)):
            numbers.add(each.name)
    return None
