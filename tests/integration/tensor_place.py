"""A place to open tensor models in, as a node has it."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry

from services.inference.backends.backend import BackendSettings
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.batching.metrics import BatchingMetrics
from services.inference.models.tensor_place import TensorPlace


def make_place(
    cache_dir: Path, *, max_queue_rows: int = 256, threads: int | None = None
) -> TensorPlace:
    return TensorPlace(
        cache_dir=cache_dir,
        backends=(OnnxRuntimeBackend(BackendSettings(threads=threads)),),
        metrics=BatchingMetrics(CollectorRegistry()),
        max_queue_rows=max_queue_rows,
    )
