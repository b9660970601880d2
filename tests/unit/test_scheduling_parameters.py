"""Timeout and priority of a request."""

from __future__ import annotations

import pytest

from mesh.errors import InvalidArgument
from mesh.pb.inference_pb2 import InferParameter
from mesh.scheduling_parameters import (
    generation_priority,
    own_timeout_s,
    requested_priority,
    requested_timeout_s,
)

LEVELS = range(1, 4)


@pytest.mark.parametrize(
    ("timeout_us", "remaining_s", "expected"),
    [
        (None, None, None),
        (None, 3.0, 3.0),
        (0, None, None),
        (1_500_000, None, 1.5),
        (1_500_000, 1.0, 1.0),
        (500_000, 1.0, 0.5),
    ],
)
def test_the_shorter_of_timeout_and_deadline_counts(timeout_us, remaining_s, expected) -> None:
    parameters = {} if timeout_us is None else {"timeout": InferParameter(int64_param=timeout_us)}
    assert requested_timeout_s(parameters, remaining_s) == expected
    assert own_timeout_s(parameters) == (timeout_us / 1_000_000 if timeout_us else None)


def test_no_priority_is_the_default_one() -> None:
    assert requested_priority({}, LEVELS) == 0


@pytest.mark.parametrize(
    ("level", "levels", "priority"),
    [(0, LEVELS, 0), (3, LEVELS, 3), (4, LEVELS, 0), (2**64 - 1, LEVELS, 0), (1, range(1), 0)],
)
def test_a_level_that_there_is_not_is_the_default_one(
    level: int, levels: range, priority: int
) -> None:
    assert requested_priority({"priority": InferParameter(uint64_param=level)}, levels) == priority


@pytest.mark.parametrize(
    ("level", "priority"), [(0, 0), (1, -1), (2, 0), (3, 1), (100, 98), (101, 0)]
)
def test_a_generation_s_level_is_a_distance_from_the_usual(level: int, priority: int) -> None:
    assert generation_priority({"priority": InferParameter(uint64_param=level)}) == priority


@pytest.mark.parametrize("name", ["timeout", "priority"])
@pytest.mark.parametrize(
    "wrong",
    [InferParameter(), InferParameter(int64_param=-1), InferParameter(string_param="1")],
    ids=["empty", "negative", "text"],
)
def test_what_is_no_number_is_named(name: str, wrong: InferParameter) -> None:
    read = {"timeout": own_timeout_s, "priority": generation_priority}[name]
    with pytest.raises(InvalidArgument) as refused:
        read({name: wrong})
    assert refused.value.field == f"parameters.{name}"
