"""The choice of a token: exact where it can be, in proportion where it must be."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from services.inference.llm.sampling import (
    COLDEST,
    History,
    Sampling,
    choose,
    logprob_of,
    penalize,
    uniform,
)

PINNED = [0.8720734548204873, 0.0828426870273763, 0.014107696329258346]

logits = arrays(np.float32, st.integers(2, 700), elements=st.floats(-30, 30, width=32))


def sampling(**fields: float) -> Sampling:
    plain = {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": 0,
    }
    return Sampling(**{**plain, **fields})  # type: ignore[arg-type]


def draw(values: np.ndarray, how: Sampling, position: int = 0) -> int:
    return choose(values, how, History.of(()), position)


def softmax(values: np.ndarray) -> np.ndarray:
    weights: np.ndarray = np.exp(values.astype(np.float64) - values.max())
    weights /= weights.sum()
    return weights


def nucleus(probabilities: np.ndarray, how: Sampling) -> set[int]:
    """The definition, written for clarity."""
    order = sorted(range(len(probabilities)), key=lambda i: (-probabilities[i], i))
    if how.top_k:
        order = order[: how.top_k]
    total = sum(probabilities[i] for i in order)
    kept, mass = [], 0.0
    for i in order:
        kept.append(i)
        mass += probabilities[i]
        if mass >= how.top_p * total:
            break
    return {i for i in kept if probabilities[i] >= how.min_p * probabilities[order[0]]}


@given(logits, st.integers(0, 2**64 - 1))
def test_zero_temperature_takes_the_likeliest(values: np.ndarray, seed: int) -> None:
    assert draw(values, sampling(temperature=0, seed=seed)) == values.argmax()


@given(
    logits,
    st.floats(0, COLDEST, exclude_max=True),
    st.sampled_from([{}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}]),
)
def test_a_temperature_near_zero_is_zero(
    values: np.ndarray, temperature: float, filters: dict[str, float]
) -> None:
    assert draw(values, sampling(temperature=temperature, **filters)) == values.argmax()


@given(
    logits,
    st.builds(
        sampling,
        temperature=st.floats(0.1, 2),
        top_k=st.sampled_from([0, 1, 5, 40]),
        top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
        min_p=st.sampled_from([0.0, 0.05, 1.0]),
        seed=st.integers(0, 2**64 - 1),
    ),
)
def test_a_drawn_token_is_one_that_the_filters_leave(values: np.ndarray, how: Sampling) -> None:
    token = draw(values, how)
    probabilities = softmax(values / np.float32(how.temperature))
    # A hair wider than the definition: float32 weights against float64.
    wider = replace(how, top_p=min(1.0, how.top_p + 1e-5), min_p=how.min_p * (1 - 1e-5))
    least = min(probabilities[list(nucleus(probabilities, wider))])
    assert probabilities[token] >= least * (1 - 1e-5)
    assert probabilities[token] > 0


@pytest.mark.parametrize(
    "fields", [{}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.3}, {"temperature": 0.5}]
)
def test_tokens_come_in_proportion(fields: dict[str, float]) -> None:
    values = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05], np.float32))
    how = sampling(seed=1, **fields)
    drawn = np.bincount([draw(values, how, i) for i in range(4000)], minlength=5) / 4000
    probabilities = softmax(values / np.float32(how.temperature))
    kept = nucleus(probabilities, how)
    expected = np.array([p if i in kept else 0 for i, p in enumerate(probabilities)])
    assert np.abs(drawn - expected / expected.sum()).max() < 0.03


@given(logits, st.integers(0, 2**64 - 1), st.integers(0, 10_000))
def test_seed_and_position_decide_alone(values: np.ndarray, seed: int, position: int) -> None:
    how = sampling(seed=seed)
    assert draw(values, how, position) == draw(values.copy(), how, position)


@given(st.integers(0, 2**64 - 1), st.integers(0, 10_000))
def test_the_random_number_lies_in_the_unit_interval(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1
    assert uniform(seed, position) != uniform(seed, position + 1)


def test_the_random_numbers_never_change() -> None:
    # An answer that moves to a node of another release must go on the same.
    assert [uniform(7, position) for position in range(3)] == PINNED


def test_repetition_weighs_prompt_and_answer() -> None:
    history = History.of((0, 1))
    history.add(2)
    values = np.array([2.0, -2.0, 4.0, 4.0], np.float32)
    out = penalize(values, sampling(repetition_penalty=2.0), history)
    assert out.tolist() == [1.0, -4.0, 2.0, 4.0]
    assert values.tolist() == [2.0, -2.0, 4.0, 4.0]


@given(
    logits,
    st.floats(0, 1, exclude_min=True) | st.sampled_from([5e-324, 1e-46, 1e-38]),
    st.sampled_from([{}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}]),
    st.sampled_from([1.1 * COLDEST, 1.0, 2.0]),
)
def test_the_strongest_reward_of_repetition_leaves_something_to_choose(
    values: np.ndarray, factor: float, filters: dict[str, float], temperature: float
) -> None:
    history = History.of((0, 1))
    how = sampling(repetition_penalty=factor, temperature=temperature, **filters)
    assert np.isfinite(penalize(values, how, history)).all()
    token = choose(values, how, history, 0)
    if factor < 1e-6 and values[:2].max() > 0.01:
        assert token in (0, 1)


def test_presence_and_frequency_weigh_the_answer_only() -> None:
    history = History.of((0,))
    for token in (1, 2, 2):
        history.add(token)
    how = sampling(presence_penalty=0.5, frequency_penalty=0.25)
    out = penalize(np.zeros(4, np.float32), how, history)
    assert out.tolist() == [0.0, -0.75, -1.0, 0.0]


@given(logits, st.integers(0, 20), st.integers(0, 699))
def test_log_probabilities_are_those_of_the_model(
    values: np.ndarray, alternatives: int, token: int
) -> None:
    token %= len(values)
    alternatives = min(alternatives, len(values) - 1)
    expected = np.log(softmax(values))
    entry = logprob_of(values, token, alternatives)
    assert math.isclose(entry.logprob, expected[token], abs_tol=1e-4)
    assert len(entry.top) == alternatives
    best = np.sort(expected)[::-1][:alternatives]
    assert np.allclose([logprob for _, logprob in entry.top], best, atol=1e-4)


@st.composite
def allowances(draw_: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and some of their tokens."""
    values = draw_(logits)
    tokens = draw_(st.sets(st.integers(0, len(values) - 1), min_size=1))
    return values, np.asarray(sorted(tokens))


@given(
    allowances(),
    st.builds(
        sampling,
        temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
        top_k=st.sampled_from([0, 1, 5]),
        top_p=st.sampled_from([0.5, 1.0]),
        min_p=st.sampled_from([0.0, 0.1]),
    ),
    st.integers(0, 2**32),
)
def test_among_the_allowed_the_choice_is_as_if_there_were_no_others(
    drawn: tuple[np.ndarray, np.ndarray], how: Sampling, position: int
) -> None:
    values, allowed = drawn
    chosen = choose(values, how, History.of(()), position, allowed)
    assert chosen == allowed[draw(values[allowed], how, position)]


def test_penalties_know_tokens_by_their_own_numbers() -> None:
    values = np.asarray([5.0, 1.0, 4.9, 4.8], np.float32)
    history = History.of(())
    history.add(2)
    how = sampling(temperature=0.0, presence_penalty=1.0)
    assert choose(values, how, history, 0, np.asarray([1, 2, 3])) == 3


@given(allowances(), st.integers(0, 20))
def test_log_probabilities_are_shared_out_among_the_allowed(
    drawn: tuple[np.ndarray, np.ndarray], alternatives: int
) -> None:
    values, allowed = drawn
    token = int(allowed[values[allowed].argmax()])
    entry = logprob_of(values, token, alternatives, allowed)
    expected = softmax(values[allowed])
    assert math.isclose(math.exp(entry.logprob), expected.max(), rel_tol=1e-3)
    assert len(entry.top) == min(alternatives, len(allowed))
    assert {other for other, _ in entry.top} <= set(allowed.tolist())
    if len(entry.top) == len(allowed):
        assert math.isclose(sum(math.exp(share) for _, share in entry.top), 1, rel_tol=1e-3)
