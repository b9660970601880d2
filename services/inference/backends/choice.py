"""On which backend a model runs: pure.

The one that the manifest names comes first, then the others in the node's order of preference, so
that a model serves on something rather than on nothing. Backends with a GPU are preferred to those
without; among equals, the order in which they are offered counts. Every backend that is passed over
leaves its reason, for the model's status and the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mesh.errors import FailedPrecondition
from mesh.logs import get_logger
from services.inference.backends.backend import Backend, BackendUnavailable, Device, Obstacle
from services.inference.backends.pending import NotBuiltYet, Pending

AUTO = "auto"

_ORDINARY = {Obstacle.MISSING_LIBRARY, Obstacle.NO_GPU}

_log = get_logger(__name__)
Opened = TypeVar("Opened")


@dataclass(frozen=True, slots=True)
class Offer:
    """What a backend says of itself on this machine: where it computes, or what is in its way."""

    name: str
    device: Device | None = None
    refusal: BackendUnavailable | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The backends to try, in order, and what spoke against the others."""

    order: tuple[str, ...]
    refusals: tuple[BackendUnavailable, ...] = ()


@dataclass(frozen=True, slots=True)
class Opening:
    """A model that is open on some backend, and a sentence if that is not what was asked for.

    `pending` is what would have it open on a backend that comes before.
    """

    backend: str
    remark: str = ""
    device: Device = Device.CPU
    pending: Pending | None = None


def choose(wanted: str, offers: Sequence[Offer]) -> Choice:
    """The order in which to try them.

    Raises:
        FailedPrecondition: the node has no backend of the name that is wanted.
    """
    names = [offer.name for offer in offers]
    if wanted not in (AUTO, *names):
        raise FailedPrecondition(f"there is no backend {wanted!r} here; known are {names}")
    able = [offer for offer in offers if offer.refusal is None]
    ranked = sorted(able, key=lambda o: (o.name != wanted, o.device is not Device.GPU))
    refusals = tuple(offer.refusal for offer in offers if offer.refusal is not None)
    return Choice(tuple(offer.name for offer in ranked), refusals)


def offer(backend: Backend) -> Offer:
    """What the backend says of itself now."""
    try:
        return Offer(backend.name, device=backend.check())
    except BackendUnavailable as refusal:
        return Offer(backend.name, refusal=refusal)


def open_first(
    wanted: str, backends: Sequence[Backend], open_on: Callable[[Backend], Opened]
) -> tuple[Opened, Opening]:
    """Opens a model on the first backend that takes it; blocking.

    Raises:
        FailedPrecondition: none takes it; the message has every reason.
    """
    offers = [offer(backend) for backend in backends]
    choice = choose(wanted, offers)
    devices = {each.name: each.device or Device.CPU for each in offers}
    by_name = {backend.name: backend for backend in backends}
    refusals = list(choice.refusals)
    for name in choice.order:
        try:
            opened = open_on(by_name[name])
        except BackendUnavailable as refusal:
            _log.warning("backend refused a model", backend=name, reason=refusal.message)
            refusals.append(refusal)
            continue
        work = next((r.work for r in refusals if isinstance(r, NotBuiltYet)), None)
        return opened, Opening(name, remark(wanted, name, refusals), devices[name], work)
    raise FailedPrecondition(f"no backend runs this model: {_list(refusals)}")


def remark(wanted: str, got: str, refusals: Sequence[BackendUnavailable]) -> str:
    """What a status says of a model that runs on `got`; nothing, if all is as it should be.

    A machine without a GPU or its libraries is no reason for a remark, unless the manifest named
    the backend that needs them.
    """
    if got == wanted:
        return ""
    told = [r for r in refusals if r.backend == wanted or r.obstacle not in _ORDINARY]
    if not told:
        return ""
    instead = "" if wanted == AUTO else f" instead of {wanted}"
    return f"runs on {got}{instead} ({_list(told)})"


def _list(refusals: Sequence[BackendUnavailable]) -> str:
    return "; ".join(refusal.message for refusal in refusals)
