"""A setting's value at one revision, as it lies in Consul KV, and what follows it. Pure.

The same document lies at two keys: where readers look (`ringmesh/config/values/<key>`) and in the
history (`ringmesh/config/history/<key>/<revision>`). Readers need no more than `value`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mesh.errors import Conflict, InvalidArgument
from mesh.live_setting import SETTINGS_PREFIX
from mesh.logs import get_logger
from services.config.definition import Definition, Definitions

HISTORY_PREFIX = "ringmesh/config/history/"
LONGEST_NOTE = 1024

_log = get_logger(__name__)


class Revision(BaseModel):
    """One change of a setting; revision 0 was put there by hand, past this service."""

    model_config = ConfigDict(frozen=True)

    value: Any
    revision: Annotated[int, Field(ge=0)] = 0
    changed_unix_ms: int = 0
    actor: str = ""
    reason: str = ""

    def to_json(self) -> bytes:
        """The document."""
        return self.model_dump_json().encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self | None:
        """Reads a document; None if it is not one."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None


@dataclass(frozen=True, slots=True)
class Change:
    """Who wants a setting changed, why, and when."""

    actor: str
    reason: str
    now_unix_ms: int

    def __post_init__(self) -> None:
        for field in ("actor", "reason"):
            if len(getattr(self, field)) > LONGEST_NOTE:
                raise InvalidArgument(f"{field} is longer than {LONGEST_NOTE}", field=field)


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting and its newest revision; None while nobody has changed it."""

    definition: Definition
    latest: Revision | None

    @property
    def value(self) -> Any:
        """What is in force."""
        return self.definition.default if self.latest is None else self.latest.value

    @property
    def revision(self) -> int:
        """The newest revision's number, 0 for the default."""
        return 0 if self.latest is None else self.latest.revision


def values_key(key: str) -> str:
    """Where readers look for the setting."""
    return SETTINGS_PREFIX + key


def history_key(key: str, revision: int) -> str:
    """Where the setting's value at a revision lies for good."""
    return f"{HISTORY_PREFIX}{key}/{revision}"


def read_setting(definition: Definition, stored: bytes | None) -> Setting:
    """The setting that a stored document amounts to.

    Of a document that is none, or whose value is refused, the default is in force: every reader
    decides the same way.
    """
    if stored is None:
        return Setting(definition, None)
    latest = Revision.from_json(stored)
    if latest is None or not definition.accepts(latest.value):
        _log.error("stored setting cannot be used, its default stays", key=definition.key)
        return Setting(definition, None)
    return Setting(definition, latest)


def read_settings(definitions: Definitions, stored: Mapping[str, bytes]) -> Mapping[str, Setting]:
    """All settings, from the documents by their keys in Consul."""
    return {
        key: read_setting(definition, stored.get(values_key(key)))
        for key, definition in definitions.items()
    }


def read_history(definition: Definition, stored: Iterable[bytes]) -> tuple[Revision, ...]:
    """The revisions that can still be read, the newest first."""
    read = [Revision.from_json(each) for each in stored]
    known = [each for each in read if each is not None and definition.accepts(each.value)]
    return tuple(sorted(known, key=lambda each: each.revision, reverse=True))


def next_revision(
    setting: Setting, value: Any, change: Change, *, expected: int | None, last: int
) -> Revision | None:
    """The revision that gives the setting this value; None where it has it already.

    `last` is the highest number in the history: numbers are never used twice.

    Raises:
        Conflict: the setting is not at the revision that the caller has seen.
    """
    if expected is not None and expected != setting.revision:
        key = setting.definition.key
        raise Conflict(f"{key} is at revision {setting.revision}, not {expected}; read it again")
    if setting.latest is not None and setting.latest.value == value:
        return None
    return Revision(
        value=value,
        revision=max(setting.revision, last) + 1,
        changed_unix_ms=change.now_unix_ms,
        actor=change.actor,
        reason=change.reason,
    )
