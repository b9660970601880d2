"""What the scheduler needs of an execution engine: slots that hold keys and values, and two runs.

A slot holds the keys and values of one sequence. `prefill` writes a run of tokens into one slot,
`decode` one token into each of the first n slots; both answer with logits, valid until the next
call. A backend is used by one thread at a time. After a `BackendFailed` the slots of the run hold
nothing of use.

Backends promise that a row's logits do not depend on the other rows of its batch, nor on how a
prompt was cut into runs of two tokens or more. They do not promise that a run of one token gives
the same bits as part of a longer run: attention over a single query is another kernel. It is the
kernel of decode: a prefill of one token is a decode of one row.

A run writes only behind what its slots hold, so one that has failed may be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SlotBackend(Protocol):
    """An execution engine with KV slots."""

    @property
    def name(self) -> str:
        """What to call it: `onnxruntime`."""

    @property
    def slots(self) -> int:
        """How many sequences it holds at once."""

    @property
    def context_tokens(self) -> int:
        """How many positions a slot has."""

    @property
    def memory_bytes(self) -> int:
        """Weights and slots, as reserved."""

    def prefill(self, slot: int, tokens: Sequence[int], start: int) -> NDArray[np.float32]:
        """Writes tokens from position `start` on; returns the logits `[V]` after the last."""

    def decode(self, tokens: Sequence[int], starts: Sequence[int]) -> NDArray[np.float32]:
        """Writes token i at position `starts[i]` of slot i; returns logits `[n, V]`."""

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copies the first positions of a slot to another."""

    def exchange(self, first: int, second: int, tokens: int) -> None:
        """Swaps the first positions of two slots."""

    def close(self) -> None:
        """Frees everything."""
