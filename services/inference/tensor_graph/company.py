"""Whether company changes a row's answer in a graph, found out by trying.

What a graph computes for a row must not depend on the rows beside it. In a graph of somebody else's
it may: a quantisation that takes its scale from the whole batch, a kernel that adds in another
order for another number of rows. So the first thing done with a graph that is to be batched is to
run rows alone and in company of several sizes, at several places, and to compare every bit. What is
found decides how batches are made; where nothing makes company harmless, requests are run one by
one. It is a measurement on made-up rows, not a proof: a graph whose values decide about its way may
still differ on others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum

import numpy as np

from mesh.tensor import Array
from services.inference.batching.ragged import Tensors
from services.inference.batching.stack import TensorRow, stack

MOST_ROWS = 64
"""Of a trial: larger batches are taken to behave like this one."""

Infer = Callable[[Tensors], Tensors]


class Company(Enum):
    """How rows may be run together."""

    ANY = "in batches of any size"
    PAIRS = "in batches of two and more"
    """A row alone takes another way through the kernels: it is run twice instead."""
    FULL = "in full batches"
    """Each number of rows takes its own way: every batch is filled up."""
    NONE = "alone"

    def batch_size(self, rows: int, most: int) -> int:
        """How many rows a batch is made of when it has so many of callers."""
        if self is Company.PAIRS:
            return max(rows, 2)
        return most if self is Company.FULL else rows


def fill_up(batch: Tensors, size: int) -> Tensors:
    """The batch with its last row repeated until there are so many."""
    count = len(next(iter(batch.values())))
    if count == size:
        return batch
    return {
        name: np.concatenate([array, np.repeat(array[-1:], size - count, axis=0)])
        for name, array in batch.items()
    }


def find_company(infer: Infer, rows: Sequence[TensorRow], most: int) -> Company:
    """The freest way of batching that changes no bit; `rows` are as many as a trial takes."""
    ways = [Company.ANY]
    if most > 1:
        ways.append(Company.PAIRS)
    if 1 < most <= len(rows):
        ways.append(Company.FULL)
    return next((way for way in ways if _is_harmless(infer, rows, way, most)), Company.NONE)


def _is_harmless(infer: Infer, rows: Sequence[TensorRow], way: Company, most: int) -> bool:
    """Whether some rows of each trial get in it what they get alone."""

    def run(chosen: Sequence[TensorRow]) -> Tensors:
        return infer(fill_up(stack(chosen), way.batch_size(len(chosen), most)))

    alone: dict[int, Tensors] = {}
    for trial in _trials(len(rows)):
        together = run([rows[number] for number in trial])
        for place in sorted({0, len(trial) // 2, len(trial) - 1}):
            number = trial[place]
            if number not in alone:
                alone[number] = run([rows[number]])
            if not all(
                _is_same(alone[number][name][0], together[name][place]) for name in together
            ):
                return False
    return True


def _trials(count: int) -> Iterator[Sequence[int]]:
    """Places of rows: few, many, all, and all the other way round."""
    for size in sorted({2, 3, count // 2, count}):
        if 1 < size <= count:
            yield range(size)
    yield range(count)[::-1]


def _is_same(one: Array, other: Array) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype == object:
        return bool((one == other).all())
    return one.tobytes() == other.tobytes()
