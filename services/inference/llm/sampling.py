"""Chooses the next token from logits: pure, per request, the same on every node.

The random number of a token depends on nothing but the request's seed and the token's position in
the answer. So a seeded answer is the same whatever else is decoded beside it, and goes on with the
same tokens when another node takes it over.

The order is that of transformers: penalties, temperature, top-k, top-p, min-p. The repetition
penalty looks at prompt and answer, the presence and frequency penalties at the answer only (as
OpenAI defines them). Log probabilities are those of the model, before any of this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# How likely, against the likeliest token, one must be to be looked at; less only if that is needed.
_THRESHOLDS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
_BLOCK = 256
COLDEST = 1e-5
"""Below this temperature the likeliest token is taken: arithmetic would soon take no other."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose; every field decided."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int

    @property
    def is_greedy(self) -> bool:
        """Whether chance plays no part."""
        return self.temperature < COLDEST

    @property
    def has_penalties(self) -> bool:
        """Whether earlier tokens change the logits."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
        )


@dataclass(slots=True)
class History:
    """The tokens that penalties look at: which have been seen, and how often in the answer."""

    seen: set[int]
    counts: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, prompt: Sequence[int]) -> History:
        """The history at the start of an answer."""
        return cls(set(prompt))

    def add(self, token: int) -> None:
        """Takes in a token of the answer."""
        self.seen.add(token)
        self.counts[token] = self.counts.get(token, 0) + 1


def choose(logits: NDArray[np.float32], sampling: Sampling, history: History, position: int) -> int:
    """The token at `position` of the answer."""
    if sampling.has_penalties:
        logits = penalize(logits, sampling, history)
    if sampling.is_greedy:
        return int(logits.argmax())
    weights = _weights(logits, sampling.temperature)
    tokens = _nucleus(weights, sampling)
    if tokens is None:
        return _pick(weights, uniform(sampling.seed, position))
    return int(tokens[_pick(weights[tokens], uniform(sampling.seed, position))])


def _weights(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """How likely each token is, relative to the likeliest, whose weight is 1."""
    weights: NDArray[np.float32] = logits - logits.max()
    weights *= np.float32(1 / temperature)
    np.exp(weights, out=weights)
    return weights


def penalize(
    logits: NDArray[np.float32], sampling: Sampling, history: History
) -> NDArray[np.float32]:
    """The logits with all three penalties applied."""
    logits = logits.copy()
    seen = np.fromiter(history.seen, np.int64, len(history.seen))
    values = logits[seen]
    factor = np.float32(sampling.repetition_penalty)
    logits[seen] = np.where(values > 0, values / factor, values * factor)
    if history.counts:
        tokens = np.fromiter(history.counts.keys(), np.int64, len(history.counts))
        counts = np.fromiter(history.counts.values(), np.float32, len(history.counts))
        logits[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    return logits


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that belongs to this seed and position."""
    bits = int(np.random.Philox(key=seed, counter=position).random_raw())
    return (bits >> 11) * 2.0**-53


def _nucleus(weights: NDArray[np.float32], sampling: Sampling) -> NDArray[np.int64] | None:
    """The tokens that top-k, top-p and min-p leave, equals of the last one too; None: all."""
    if sampling.top_k == 0 and sampling.top_p >= 1:
        return np.flatnonzero(weights >= sampling.min_p) if sampling.min_p > 0 else None
    total = 0.0 if sampling.top_k else float(weights.sum())
    tokens = _candidates(weights, sampling, total)
    candidates = weights[tokens]
    # Sorting the values alone is several times as fast as sorting the tokens by them.
    values = np.sort(candidates)[::-1][: sampling.top_k or None]
    if sampling.top_p < 1:
        mass = np.cumsum(values, dtype=np.float64)
        # Without top-k the goal is a share of the whole vocabulary; with it, of the k likeliest.
        goal = sampling.top_p * (total or mass[-1])
        values = values[: int(np.searchsorted(mass, goal)) + 1]
    kept: NDArray[np.int64] = tokens[candidates >= max(values[-1], sampling.min_p)]
    return kept


def _candidates(
    weights: NDArray[np.float32], sampling: Sampling, total: float
) -> NDArray[np.int64]:
    """Few tokens among which all of the nucleus is: sorting a whole vocabulary would be slow."""
    for threshold in _THRESHOLDS:
        tokens = np.flatnonzero(weights >= threshold)
        if sampling.top_k:
            is_enough = len(tokens) >= sampling.top_k
        else:
            is_enough = float(weights[tokens].sum()) >= sampling.top_p * total
        if is_enough:
            return tokens
    return np.arange(len(weights))


def _pick(weights: NDArray[np.float32], chance: float) -> int:
    """The index at which the running sum of the weights passes `chance` of their total."""
    # Sums of blocks first: a running sum over a whole vocabulary is several times as slow.
    starts = np.arange(0, len(weights), _BLOCK)
    sums = np.cumsum(np.add.reduceat(weights, starts), dtype=np.float64)
    goal = chance * sums[-1]
    block = min(int(np.searchsorted(sums, goal, side="right")), len(sums) - 1)
    before = sums[block - 1] if block else 0.0
    inside = before + np.cumsum(weights[starts[block] :][:_BLOCK], dtype=np.float64)
    index = int(starts[block]) + int(np.searchsorted(inside, goal, side="right"))
    if index < len(weights) and weights[index] > 0:
        return index
    # Rounding carried the goal past the last weight that counts.
    return int(np.flatnonzero(weights)[-1])


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token's log probability, and the likeliest alternatives at its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def logprob_of(logits: NDArray[np.float32], token: int, alternatives: int) -> Logprob:
    """The model's own log probability of a token."""
    largest = float(logits.max())
    norm = largest + math.log(float(_weights(logits, 1.0).sum()))
    if alternatives == 0:
        return Logprob(token, float(logits[token]) - norm)
    likely = np.argpartition(-logits, alternatives)[:alternatives]
    likely = likely[np.lexsort((likely, -logits[likely]))]
    top = tuple((int(t), float(logits[t]) - norm) for t in likely)
    return Logprob(token, float(logits[token]) - norm, top)
