"""What a batcher runs: rows of one key in, a result for each out; and what its callers hand in."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

P = TypeVar("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Item(Generic[P]):
    """A row: what `run` gets of it, with which others it may run, and how large it is then."""

    payload: P
    key: Hashable
    width: int = 1


@dataclass(frozen=True, slots=True)
class Ran(Generic[R]):
    """The results, one a row in their order; how long making and taking apart the batch took."""

    results: Sequence[R]
    input_ns: int = 0
    output_ns: int = 0


Run = Callable[[Sequence[P], Any], Ran[R]]
"""Runs rows of the same key, in a thread of its own.

It is pure: a row's result follows from the row alone, and running it again changes nothing.
"""
