"""In what a backend keeps a decoder's weights: what is said where that is not what was asked for.

Manifests name precisions that not every backend computes in. Such a model runs all the same, in the
nearest that the backend has, and its status says so: nobody should have to guess from memory or
speed what became of `int4`. The same figures tell how much memory the decoder is going to take.
Pure, but for asking the backends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from services.inference.backends.backend import Backend, Obstacle
from services.inference.backends.choice import choose, offer
from services.inference.llm.weights import Precision


@dataclass(frozen=True, slots=True)
class KeptWeights:
    """How a backend keeps a decoder.

    `form` is the manifest's word for the weights, or the type of numbers that they are kept in.
    With `table_bytes`, tokens are looked up in a table of its own, of numbers of that size. Slots
    have their context's positions, or with a `position_step` one more, in whole steps.
    """

    form: str
    weight_bytes: float
    table_bytes: float = 0
    cache_element_bytes: int = 4
    position_step: int = 1
    opens_at_once: bool = True

    def positions(self, context_tokens: int) -> int:
        """The positions of a slot in memory."""
        step = self.position_step
        return context_tokens if step == 1 else -(-(context_tokens + 1) // step) * step


@runtime_checkable
class KeepsWeights(Protocol):
    """A backend for decoders, which says how it keeps them."""

    def kept_weights(self, wanted: Precision, compute: str) -> KeptWeights:
        """For these weights and this `precision` of a manifest; raises `BackendUnavailable`."""


def precision_remark(backend: str, wanted: Precision, compute: str, kept: KeptWeights) -> str:
    """What a status says of weights that are kept otherwise; nothing, if they are as asked for."""
    if kept.form == wanted:
        return ""
    if wanted == "fp32":  # the manifest's `precision` has the last word on a GPU
        return "" if kept.form == compute else f"computes in {kept.form}, as precision is {compute}"
    reason = Obstacle.UNSUPPORTED_PRECISION.value
    return f"weights are {kept.form} instead of {wanted} ({backend}: {reason})"


def remark_on(backends: Sequence[Backend], opened_on: str, wanted: Precision, compute: str) -> str:
    """The remark of a decoder that is open on the backend of this name."""
    backend = next(each for each in backends if each.name == opened_on)
    if not isinstance(backend, KeepsWeights):
        return ""
    return precision_remark(opened_on, wanted, compute, backend.kept_weights(wanted, compute))


def expected_weights(
    backends: Sequence[Backend], wanted_backend: str, wanted: Precision, compute: str
) -> KeptWeights | None:
    """How a decoder will be kept when it is opened, in the likeliest case; blocking.

    A backend that has to build something first is passed over at first, and takes no more than the
    one that serves meanwhile.
    """
    order = choose(wanted_backend, [offer(backend) for backend in backends]).order
    by_name = {each.name: each for each in backends}
    first = None
    for name in order:
        backend = by_name[name]
        if isinstance(backend, KeepsWeights):
            # Of those behind nothing is asked: torch would be loaded for the answer.
            kept = backend.kept_weights(wanted, compute)
            if kept.opens_at_once:
                return kept
            first = first or kept
    return first
