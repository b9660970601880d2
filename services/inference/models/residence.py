"""Which versions the node should hold: all that are placed here, but for those unloaded by hand.

The placement is the control plane's, and stays what it is when somebody unloads a model here by
hand; so both are kept, and what should be held follows from them. An unloading by hand lasts until
the model is loaded by hand again, or the process ends. It does no loading itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from mesh.deployment import Assignment, Placement
from services.inference.models.loaded_model import Key


def key_of(assignment: Assignment) -> Key:
    """The model and version that an assignment is about."""
    return assignment.model, assignment.spec.version


class Residence:
    """The node's placement and what is withheld of it."""

    def __init__(self) -> None:
        self._placed: Mapping[Key, Assignment] = {}
        self._withheld: set[Key] = set()
        self._on_change: Callable[[], None] = _nothing
        self._on_asked: Callable[[Key], None] = _nothing

    def __repr__(self) -> str:
        return f"<Residence placed={sorted(self._placed)} withheld={sorted(self._withheld)}>"

    def follow(self, on_change: Callable[[], None], on_asked: Callable[[Key], None]) -> None:
        """Has functions called: whenever `wanted` may have changed, and for what is to load now."""
        self._on_change, self._on_asked = on_change, on_asked

    @property
    def wanted(self) -> Mapping[Key, Assignment]:
        """What the node should hold."""
        return {key: each for key, each in self._placed.items() if key not in self._withheld}

    def is_withheld(self, key: Key) -> bool:
        """Whether a version was unloaded by hand."""
        return key in self._withheld

    def placed(self, model: str, version: int | None) -> tuple[Key, ...]:
        """The placed versions of a model; with a version, that one."""
        return tuple(key for key in self._placed if key[0] == model and version in (None, key[1]))

    def place(self, placement: Placement) -> None:
        """Takes over a placement. What is gone from it is withheld no longer."""
        self._placed = {key_of(each): each for each in placement.assignments}
        self._withheld &= self._placed.keys()
        self._on_change()

    def withhold(self, keys: Iterable[Key]) -> None:
        """Unloads by hand."""
        self._withheld |= set(keys)
        self._on_change()

    def release(self, keys: Iterable[Key]) -> None:
        """Loads by hand: what was unloaded by hand, and at once what is to be tried later."""
        keys = set(keys)
        for key in keys - self._withheld:
            self._on_asked(key)
        self._withheld -= keys
        self._on_change()


def _nothing(*_about: object) -> None:
    pass
