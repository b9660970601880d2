"""What a node gives to each tensor model that it opens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.inference.backends.backend import Backend
from services.inference.batching.metrics import BatchingMetrics


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where compiled graphs lie, what runs them, and how many rows may wait for one model."""

    cache_dir: Path
    backends: Sequence[Backend]
    metrics: BatchingMetrics
    max_queue_rows: int
