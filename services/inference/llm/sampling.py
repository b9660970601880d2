"""Chooses the next token from logits: pure, per request, the same on every node.

The random number of a token depends on nothing but the request's seed and the token's position in
the answer. So a seeded answer is the same whatever else is decoded beside it, and goes on with the
same tokens when another node takes it over.

The order is that of transformers: penalties, temperature, top-k, top-p, min-p. The repetition
penalty looks at prompt and answer, the presence and frequency penalties at the answer only (as
OpenAI defines them). Log probabilities are those of the model, before any of this.

Where only some tokens are allowed, the others are as good as not in the vocabulary: temperature and
filters see the allowed ones alone, and so do log probabilities (as vLLM's).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# How likely, against the likeliest token, one must be to be looked at; less only if that is needed.
_THRESHOLDS = (1e-4, 1e-6, 0.0)
# Far more than what rounding could make of a comparison.
_MARGIN = 0.01
_BLOCK = 256
# A repetition penalty of less makes no difference but to divide logits out of float32.
_LEAST_FACTOR = 1e-20
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


def choose(
    logits: NDArray[np.float32],
    sampling: Sampling,
    history: History,
    position: int,
    allowed: NDArray[np.int64] | None = None,
) -> int:
    """The token at `position` of the answer: one of those allowed, or of all."""
    if sampling.has_penalties:
        logits = penalize(logits, sampling, history)
    if allowed is not None:
        return int(allowed[_choose(logits[allowed], sampling, position)])
    return _choose(logits, sampling, position)


def _choose(logits: NDArray[np.float32], sampling: Sampling, position: int) -> int:
    if sampling.is_greedy:
        return int(logits.argmax())
    tokens, weights = _nucleus(logits, sampling)
    place = _pick(weights, uniform(sampling.seed, position))
    return place if tokens is None else int(tokens[place])


def _weights(
    logits: NDArray[np.float32], largest: np.float32, temperature: float
) -> NDArray[np.float32]:
    """How likely each token is, relative to one with the largest logit."""
    weights: NDArray[np.float32] = logits - largest
    if temperature != 1:
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
    factor = np.float32(max(sampling.repetition_penalty, _LEAST_FACTOR))
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


def _nucleus(
    logits: NDArray[np.float32], sampling: Sampling
) -> tuple[NDArray[np.int64] | None, NDArray[np.float32]]:
    """The tokens that top-k, top-p and min-p leave, equals of the last one too; None: all.

    With them come their weights. Most tokens are never worth an exponential or a place in a sort.
    """
    largest: np.float32 = logits.max()
    if sampling.top_k:
        tokens, weights = _beyond_top_k(logits, largest, sampling)
        return _cut(tokens, weights, sampling, None)
    if sampling.top_p < 1:
        every = _weights(logits, largest, sampling.temperature)
        mass = sampling.top_p * float(every.sum())
        tokens, weights = _beyond_mass(every, mass)
        return _cut(tokens, weights, sampling, mass)
    if sampling.min_p > 0:
        tokens = _likely(logits, largest, sampling.temperature, sampling.min_p)
        weights = _weights(logits[tokens], largest, sampling.temperature)
        kept = weights >= sampling.min_p
        return tokens[kept], weights[kept]
    return None, _weights(logits, largest, sampling.temperature)


def _beyond_top_k(
    logits: NDArray[np.float32], largest: np.float32, sampling: Sampling
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Few tokens among which the k likeliest are, with all their equals."""
    for threshold in _THRESHOLDS:
        tokens = _likely(logits, largest, sampling.temperature, threshold)
        weights = _weights(logits[tokens], largest, sampling.temperature)
        if np.count_nonzero(weights >= threshold) >= sampling.top_k:
            break
    return tokens, weights


def _beyond_mass(
    every: NDArray[np.float32], mass: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Few tokens, likelier than all others, that have the mass together."""
    for threshold in _THRESHOLDS:
        tokens = np.flatnonzero(every >= threshold)
        weights = every[tokens]
        if float(weights.sum()) >= mass:
            break
    return tokens, weights


def _likely(
    logits: NDArray[np.float32], largest: np.float32, temperature: float, threshold: float
) -> NDArray[np.int64]:
    """All tokens whose weight reaches the threshold, and perhaps some that nearly do."""
    if threshold == 0:
        return np.arange(len(logits))
    cutoff = float(largest) + temperature * (math.log(threshold) - _MARGIN)
    return np.flatnonzero(logits >= np.float32(cutoff - 2 * abs(np.spacing(largest))))


def _cut(
    tokens: NDArray[np.int64],
    weights: NDArray[np.float32],
    sampling: Sampling,
    mass: float | None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What the filters leave of these; `mass` is the goal of top-p if the k likeliest set none."""
    # Sorting the values alone is several times as fast as sorting the tokens by them.
    values = np.sort(weights)[::-1][: sampling.top_k or None]
    if sampling.top_p < 1:
        sums = np.cumsum(values, dtype=np.float64)
        goal = sampling.top_p * sums[-1] if mass is None else mass
        values = values[: int(np.searchsorted(sums, goal)) + 1]
    kept = weights >= max(values[-1], sampling.min_p)
    return tokens[kept], weights[kept]


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


def logprob_of(
    logits: NDArray[np.float32],
    token: int,
    alternatives: int,
    allowed: NDArray[np.int64] | None = None,
) -> Logprob:
    """The model's own log probability of a token, among those allowed or among all."""
    if allowed is not None:
        place = int(np.searchsorted(allowed, token))
        among = logprob_of(logits[allowed], place, min(alternatives, len(allowed)))
        top = tuple((int(allowed[other]), logprob) for other, logprob in among.top)
        return Logprob(token, among.logprob, top)
    largest: np.float32 = logits.max()
    norm = float(largest) + math.log(float(_weights(logits, largest, 1.0).sum()))
    if alternatives == 0:
        return Logprob(token, float(logits[token]) - norm)
    likely = np.argpartition(-logits, alternatives - 1)[:alternatives]
    likely = likely[np.lexsort((likely, -logits[likely]))]
    top = tuple((int(t), float(logits[t]) - norm) for t in likely)
    return Logprob(token, float(logits[token]) - norm, top)
