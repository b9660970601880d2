"""Which company is harmless is found out by trying; batches are made accordingly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.batching.stack import TensorRow, cut
from services.inference.tensor_graph.company import Company, fill_up, find_company

Array = np.ndarray[Any, Any]


def rows(count: int) -> list[TensorRow]:
    values = np.random.default_rng(count).random((count, 3)).astype("<f4")
    return [item.payload for item in cut({"x": values})]


def graph(compute: Callable[[Array], Array]) -> Callable[[Any], Any]:
    return lambda batch: {"y": compute(batch["x"])}


def by_size(x: Array) -> Array:
    return x + np.float32(len(x))


def by_place(x: Array) -> Array:
    return x + np.arange(len(x), dtype="<f4")[:, None]


@pytest.mark.parametrize(
    ("compute", "company"),
    [
        (lambda x: 2 * x, Company.ANY),
        (lambda x: x / x.max(), Company.NONE),
        (lambda x: x + np.float32(len(x) == 1), Company.PAIRS),
        (by_size, Company.FULL),
        (by_place, Company.NONE),
        (lambda x: x * np.float32("nan"), Company.ANY),
        (lambda x: np.where(x > 0.5, "a", "b").astype(object), Company.ANY),
    ],
)
@pytest.mark.parametrize("count", [4, 9, 32])
def test_the_freest_harmless_way_is_found(
    compute: Callable[[Array], Array], company: Company, count: int
) -> None:
    assert find_company(graph(compute), rows(count), count) is company


def test_a_batch_of_one_row_is_a_row_alone() -> None:
    assert find_company(graph(by_place), rows(1), 1) is Company.ANY


def test_more_rows_than_a_trial_has_are_never_filled_up() -> None:
    assert find_company(graph(by_size), rows(8), 4096) is Company.NONE


@given(st.sampled_from(Company), st.integers(1, 40), st.integers(0, 40))
def test_a_batch_has_its_rows_first_and_is_never_too_large(
    company: Company, count: int, room: int
) -> None:
    most = max(count + room, 2)
    batch = {"x": np.arange(count)}
    filled = fill_up(batch, company.batch_size(count, most))["x"]
    assert count <= len(filled) <= most
    assert filled[:count].tolist() == batch["x"].tolist()
    assert set(filled[count:]) <= {count - 1}
