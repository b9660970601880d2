"""Loading and unloading by hand, and what state everything is in.

Of what is placed on this node: a model that is not placed here cannot be loaded here, because the
artefact to load is named by the placement alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.errors import FailedPrecondition, ModelNotFound, Unavailable
from services.inference.models.residence import Residence
from services.inference.models.state import ModelState, ModelStatus
from services.inference.models.table import Key, ModelTable


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
            Unavailable: it could not be loaded; the node keeps trying.
        """
        keys = self._placed(model, version)
        self._residence.release(keys)
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
        while any(self._state(key) in (ModelState.READY, ModelState.LOADING) for key in keys):
            await self._table.wait_for_change()

    async def _until_loaded(self, key: Key) -> None:
        was_loading = False
        while (status := self._status(key)).state is not ModelState.READY:
            if was_loading and status.state is ModelState.UNAVAILABLE:
                raise Unavailable(f"{status.reference} cannot be loaded: {status.reason}")
            was_loading = status.state is ModelState.LOADING
            await self._table.wait_for_change()

    def _placed(self, model: str, version: int | None) -> Sequence[Key]:
        keys = self._residence.placed(model, version)
        if keys:
            return keys
        reference = model if version is None else f"{model}@{version}"
        if any(each.model == model and version in (None, each.version) for each in self.statuses()):
            raise FailedPrecondition(f"{reference} is not placed on this node")
        raise ModelNotFound(reference)

    def _status(self, key: Key) -> ModelStatus:
        return next(each for each in self._table.statuses() if (each.model, each.version) == key)

    def _state(self, key: Key) -> ModelState:
        return self._status(key).state
