"""Values of the key-value store, and the changes of a transaction."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class KvEntry:
    """A value of the key-value store, with the index that a check-and-set compares."""

    value: bytes
    modify_index: int


@dataclass(frozen=True, slots=True)
class KvPut:
    """One change of a transaction: writes `key` if it is still at `modify_index` (0: is not)."""

    key: str
    value: bytes
    modify_index: int


@dataclass(frozen=True, slots=True)
class KvDelete:
    """One change of a transaction: deletes `key` if it is still at `modify_index`."""

    key: str
    modify_index: int


def entry_of(row: Mapping[str, Any]) -> KvEntry:
    """Reads a row of the key-value endpoint."""
    return KvEntry(value=row["Value"] or b"", modify_index=row["ModifyIndex"])


def operation_of(change: KvPut | KvDelete) -> Mapping[str, Any]:
    """The change as the transaction endpoint takes it."""
    if isinstance(change, KvDelete):
        return {"Verb": "delete-cas", "Key": change.key, "Index": change.modify_index}
    value = base64.b64encode(change.value).decode()
    return {"Verb": "cas", "Key": change.key, "Value": value, "Index": change.modify_index}
