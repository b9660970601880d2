"""Which graphs OpenVINO may be given."""

from __future__ import annotations

import pytest

from services.inference.backends.openvino_operators import Operator, find_hazard

X = Operator("x", "Parameter")
ONE = Operator("one", "Constant")


def graph(*operators: Operator) -> list[Operator]:
    return [X, ONE, *operators, Operator("y", "Result", (operators[-1].name,))]


@pytest.mark.parametrize(
    "operators",
    [
        [Operator("a", "Add", ("x", "x"))],
        [Operator("g", "Gather", ("one", "x", "one"))],
        [Operator("r", "Reshape", ("x", "one"))],
        [
            Operator("s", "ShapeOf", ("x",)),
            Operator("h", "Multiply", ("s", "one")),
            Operator("r", "Reshape", ("x", "h")),
        ],
        [Operator("r", "Range", ("one", "one", "one")), Operator("a", "Add", ("x", "r"))],
    ],
    ids=lambda operators: operators[-1].kind,
)
def test_numbers_that_are_data_pass(operators: list[Operator]) -> None:
    assert find_hazard(graph(*operators)) is None


@pytest.mark.parametrize(
    "operators",
    [
        [Operator("r", "Range", ("one", "one", "x"))],
        [Operator("p", "VariadicSplit", ("one", "one", "x"))],
        [Operator("g", "Gather", ("one", "one", "x"))],
        [Operator("h", "Multiply", ("one", "x")), Operator("r", "Reshape", ("one", "h"))],
        [Operator("t", "Tile", ("x", "x"))],
        [Operator("c", "ConvolutionBackpropData", ("x", "one", "x"))],
        # What is cut out by an input's numbers has a shape that is one of them.
        [Operator("c", "Convert", ("x",)), Operator("s", "Slice", ("one", "c", "one", "one"))],
    ],
    ids=lambda operators: operators[-1].kind,
)
def test_numbers_that_say_where_do_not(operators: list[Operator]) -> None:
    place = operators[-1]
    hazard = find_hazard(graph(*operators))
    assert hazard == (
        f"{place.kind} ({place.name}) takes a place from an input, and does not check it"
    )


@pytest.mark.parametrize(
    "kind", ["GatherND", "ScatterElementsUpdate", "Loop", "If", "LSTMSequence"]
)
def test_what_is_not_known_is_not_run(kind: str) -> None:
    assert find_hazard(graph(Operator("n", kind, ("one", "x")))) == (
        f"{kind} (n) is not known to keep to its own memory"
    )
