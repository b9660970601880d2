"""Reads and changes settings in Consul: value and history in one transaction, or neither.

No lock: whoever loses a race reads again and decides again, and each lost race is another's
progress. What may be set and what follows a revision is decided purely, in `definition` and
`revision`; this module carries it out.
"""

from __future__ import annotations

from mesh.catalog import Catalog, KvEntry, KvPut
from mesh.errors import NotFound
from mesh.live_setting import SETTINGS_PREFIX
from services.config.definition import Definitions, find_definition
from services.config.revision import (
    HISTORY_PREFIX,
    Change,
    Revision,
    Setting,
    history_key,
    next_revision,
    read_history,
    read_setting,
    read_settings,
    values_key,
)


class Journal:
    """All settings with their history."""

    def __init__(self, catalog: Catalog, definitions: Definitions) -> None:
        self._catalog = catalog
        self._definitions = definitions

    async def list(self) -> tuple[Setting, ...]:
        """Every setting, changed or not."""
        entries = await self._catalog.list_prefix(SETTINGS_PREFIX)
        stored = {key: entry.value for key, entry in entries.items()}
        return tuple(read_settings(self._definitions, stored).values())

    async def get(self, key: str) -> Setting:
        """One setting."""
        setting, _ = await self._read(key)
        return setting

    async def set(
        self, key: str, value_json: str | bytes, change: Change, *, expected: int | None = None
    ) -> Setting:
        """Gives the setting a value; the one that it has already makes no new revision.

        Raises:
            InvalidArgument: the value does not satisfy the constraint.
            Conflict: the setting is not at revision `expected`.
        """
        value = find_definition(self._definitions, key).read(value_json)
        while True:
            setting, entry = await self._read(key)
            last = setting.revision or await self._last(key)
            wanted = next_revision(setting, value, change, expected=expected, last=last)
            if wanted is None:
                return setting
            if await self._write(key, wanted, entry):
                return Setting(setting.definition, wanted)

    async def rollback(self, key: str, revision: int, change: Change) -> Setting:
        """Gives the setting the value back that it had at `revision`; 0 is the default."""
        definition = find_definition(self._definitions, key)
        if revision == 0:
            return await self.set(key, definition.kind.dump_json(definition.default), change)
        entry = await self._catalog.get(history_key(key, revision))
        earlier = None if entry is None else Revision.from_json(entry.value)
        if earlier is None:
            raise NotFound(f"{key} has no revision {revision}")
        return await self.set(key, definition.kind.dump_json(earlier.value), change)

    async def revisions(self, key: str) -> tuple[Revision, ...]:
        """What the setting has been, the newest first."""
        definition = find_definition(self._definitions, key)
        entries = await self._catalog.list_prefix(f"{HISTORY_PREFIX}{key}/")
        return read_history(definition, (entry.value for entry in entries.values()))

    async def _read(self, key: str) -> tuple[Setting, KvEntry | None]:
        definition = find_definition(self._definitions, key)
        entry = await self._catalog.get(values_key(key))
        return read_setting(definition, None if entry is None else entry.value), entry

    async def _last(self, key: str) -> int:
        """The highest number in the history, for a setting whose value does not tell it."""
        entries = await self._catalog.list_prefix(f"{HISTORY_PREFIX}{key}/")
        numbers = [name.rpartition("/")[2] for name in entries]
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    async def _write(self, key: str, wanted: Revision, replaced: KvEntry | None) -> bool:
        document = wanted.to_json()
        return await self._catalog.transact(
            KvPut(values_key(key), document, 0 if replaced is None else replaced.modify_index),
            KvPut(history_key(key, wanted.revision), document, 0),
        )
