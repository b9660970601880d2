"""The budget of a deadline shrinks by hop and never becomes nonsense."""

import pytest

from mesh.deadline import HOP_OVERHEAD_S, hop_timeout_s, remaining_s
from mesh.errors import DeadlineTooShort


class Context:
    def __init__(self, left: float | None) -> None:
        self.left = left

    def time_remaining(self) -> float | None:
        return self.left


@pytest.mark.parametrize("left", [None, 1e9, 9.2e18])
def test_no_deadline_gives_the_default(left: float | None) -> None:
    assert remaining_s(Context(left)) is None
    assert hop_timeout_s(Context(left), default_s=30) == 30


def test_each_hop_keeps_its_overhead() -> None:
    assert hop_timeout_s(Context(1.0), default_s=30) == pytest.approx(1.0 - HOP_OVERHEAD_S)


def test_the_default_bounds_a_long_deadline() -> None:
    assert hop_timeout_s(Context(1e6), default_s=30) == 30


@pytest.mark.parametrize("left", [0.0, -1.0, HOP_OVERHEAD_S])
def test_a_spent_deadline_is_refused(left: float) -> None:
    with pytest.raises(DeadlineTooShort):
        hop_timeout_s(Context(left), default_s=30)
