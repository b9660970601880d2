"""A node in a process of its own, with the demo encoder on a backend and in a precision."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from node_process import SETTINGS, serve_model
from prometheus_client import CollectorRegistry

from mesh.deployment import VersionSpec
from mesh.manifest import Manifest
from services.inference.backends.available import make_backends
from services.inference.backends.backend import Backend
from services.inference.batching.metrics import BatchingMetrics
from services.inference.encoders.sentence_encoder import open_sentence_encoder
from services.inference.models.loaded_model import LoadedModel
from services.inference.models.tensor_place import TensorPlace

MAX_QUEUE_ROWS = 1024


async def run(folder: Path, cache_dir: Path, wishes: dict[str, str]) -> None:
    """The encoder, just as it is wished for."""
    document = {"name": "minilm", "task": "text-embedding", "format": "sentence-transformers"}
    manifest = Manifest.model_validate({**document, **wishes})
    spec = VersionSpec(version=1, digest="0" * 64, manifest=manifest, files=())
    metrics = BatchingMetrics(CollectorRegistry())

    async def open_model(backends: Sequence[Backend]) -> LoadedModel:
        place = TensorPlace(cache_dir, backends, metrics, MAX_QUEUE_ROWS)
        model = await open_sentence_encoder(folder, spec, place)
        return model if not model.remark else sys.exit(model.remark)

    await serve_model(manifest.name, open_model, make_backends(SETTINGS))


if __name__ == "__main__":
    model_folder, cache, backend, precision = sys.argv[1:]
    wished = {"backend": backend, "precision": precision}
    asyncio.run(run(Path(model_folder), Path(cache), wished))
