"""Loading and unloading by hand, and what state everything is in.

Of what is placed on this node: a model that is not placed here cannot be loaded here, because the
artefact to load is named by the placement alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.errors import FailedPrecondition, ModelNotFound, Unavailable
from services.inference.models.loaded_model import Key
from services.inference.models.residence import Residence
from services.inference.models.state import Change, ModelState, ModelStatus
from services.inference.models.table import ModelTable

_TAKES_CALLS = (ModelState.READY, ModelState.LOADING)
"""Or may at any moment."""


class Repository:
    """The node's models as somebody who loads and unloads them sees them."""

    def __init__(self, table: ModelTable, residence: Residence) -> None:
        self._table = table
        self._residence = residence

    def __repr__(self) -> str:
        return f"<Repository {self._table} {self._residence}>"

    def statuses(self) -> Sequence[ModelStatus]:
        """Every version that the node holds, is about to hold, or has held."""
        return tuple(self._table.statuses())

    async def load(self, model: str, version: int | None) -> None:
        """Loads what was unloaded by hand; returns when it is ready, at once if it is.

        Raises:
            ModelNotFound: this node has never been told of such a model.
            FailedPrecondition: it is not placed here.
            Unavailable: it could not be loaded, and the node keeps trying; or it was given up.
        """
        keys = self._placed(model, version)
        leaving = [key for key in keys if self._residence.is_withheld(key)]
        self._residence.release(keys)
        await self._until_out(leaving)
        for key in keys:
            await self._until_loaded(key)

    async def unload(self, model: str, version: int | None) -> None:
        """Takes a model out of service; returns when no call can begin on it any more.

        Raises:
            ModelNotFound: this node has never been told of such a model.
            FailedPrecondition: it is not placed here.
        """
        keys = self._placed(model, version)
        self._residence.withhold(keys)
        await self._until_out(keys)

    async def _until_out(self, keys: Sequence[Key]) -> None:
        """Until stays that have been told to end take no calls any more."""
        staying = set(keys)
        while staying := {key for key in staying if self._state(key) in _TAKES_CALLS}:
            await self._table.wait_for_change()

    async def _until_loaded(self, key: Key) -> None:
        before = self._failed_loads(key)
        while (status := self._status(key)).state is not ModelState.READY:
            if self._failed_loads(key) > before:
                raise Unavailable(f"{status.reference} cannot be loaded: {status.reason}")
            if key not in self._residence.wanted:
                raise Unavailable(f"{status.reference} is not to be loaded any more")
            await self._table.wait_for_change()

    def _failed_loads(self, key: Key) -> int:
        # Counted: a load that fails at once is over before anybody has seen it begin.
        known = (each for each in self.statuses() if (each.model, each.version) == key)
        return sum(self._table.changes(each).get(Change.LOAD_FAILED, 0) for each in known)

    def _placed(self, model: str, version: int | None) -> Sequence[Key]:
        keys = self._residence.placed(model, version)
        if keys:
            return keys
        reference = model if version is None else f"{model}@{version}"
        if any(each.model == model and version in (None, each.version) for each in self.statuses()):
            raise FailedPrecondition(f"{reference} is not placed on this node")
        raise ModelNotFound(reference)

    def _status(self, key: Key) -> ModelStatus:
        found = (each for each in self._table.statuses() if (each.model, each.version) == key)
        return next(found, ModelStatus(*key))  # a placement of this moment is not in the table yet

    def _state(self, key: Key) -> ModelState:
        return self._status(key).state
