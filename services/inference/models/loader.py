"""From an assignment to a model that answers: fetch the artefact, open what its format asks for.

The one place that knows which kind of model is opened by whom; a further kind is one more line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from prometheus_client import CollectorRegistry

from mesh.deployment import Assignment, VersionSpec
from mesh.errors import FailedPrecondition
from mesh.manifest import Format, Task
from mesh.store import ArtefactStore
from services.inference.backends.available import make_backends
from services.inference.backends.backend import Backend, BackendSettings
from services.inference.batching.metrics import BatchingMetrics
from services.inference.encoders.sentence_encoder import open_sentence_encoder
from services.inference.encoders.text_classifier import open_text_classifier
from services.inference.llm.metrics import LanguageModelMetrics
from services.inference.llm.opening import open_language_model
from services.inference.models.identity import open_identity
from services.inference.models.improvement import Improvement
from services.inference.models.loaded_model import LoadedModel
from services.inference.models.needs import count_bytes
from services.inference.models.tensor_place import TensorPlace
from services.inference.settings import NodeSettings
from services.inference.tensor_graph.onnx_model import open_onnx_model

Kind = tuple[Format, Task]
Opener = Callable[[Path, VersionSpec], Awaitable[LoadedModel]]


class ModelLoader:
    """Loads the versions of a node; two nodes of a machine share the cache folder."""

    def __init__(self, settings: NodeSettings, metrics: CollectorRegistry) -> None:
        self._store = ArtefactStore(settings.artefact_store_url)
        cache_dir = settings.state_dir / "cache"
        self._artefacts = cache_dir / "artefacts"
        self._compiled = cache_dir / "compiled"
        backend = BackendSettings(threads=settings.engine_threads, spin=settings.engine_spin)
        self._backends = backends = make_backends(backend, self._store)
        self._openers = make_openers(settings, self._compiled, metrics, backends)
        self.improve = Improvement()

    @property
    def formats(self) -> frozenset[Format]:
        """The artefact formats that this node runs."""
        return frozenset(format_ for format_, _task in self._openers)

    async def open(self, assignment: Assignment) -> LoadedModel:
        """Loads a version; an error says what is wrong with it."""
        spec = assignment.spec
        kind = spec.manifest.format, spec.manifest.task
        opener = self._openers.get(kind)
        if opener is None:
            raise FailedPrecondition(f"this node runs no models of {kind[0]} for {kind[1]}")
        folder = await self._store.materialize(spec.files, self._artefacts)
        return await opener(folder, spec)

    async def measure(self, assignment: Assignment) -> int:
        """How much memory a version is going to take; fetches its files, if it must."""
        spec = assignment.spec
        folder = await self._store.materialize(spec.files, self._artefacts)
        return await asyncio.to_thread(count_bytes, folder, spec, self._compiled, self._backends)


def make_openers(
    settings: NodeSettings,
    compiled_dir: Path,
    metrics: CollectorRegistry,
    backends: Sequence[Backend],
) -> Mapping[Kind, Opener]:
    """Each kind's way of opening a folder with the artefact's files."""
    generation = LanguageModelMetrics(metrics)
    place = TensorPlace(compiled_dir, backends, BatchingMetrics(metrics), settings.max_queue_rows)

    async def identity(_folder: Path, spec: VersionSpec) -> LoadedModel:
        return open_identity(spec)

    async def language_model(folder: Path, spec: VersionSpec) -> LoadedModel:
        return await open_language_model(folder, spec, compiled_dir, backends, generation)

    async def sentence_encoder(folder: Path, spec: VersionSpec) -> LoadedModel:
        return await open_sentence_encoder(folder, spec, place)

    async def text_classifier(folder: Path, spec: VersionSpec) -> LoadedModel:
        return await open_text_classifier(folder, spec, place)

    async def onnx(folder: Path, spec: VersionSpec) -> LoadedModel:
        return await open_onnx_model(folder, spec, place)

    return MappingProxyType(
        {
            ("gguf", "text-generation"): language_model,
            ("transformers", "text-generation"): language_model,
            ("transformers", "text-embedding"): sentence_encoder,
            ("transformers", "text-classification"): text_classifier,
            ("sentence-transformers", "text-embedding"): sentence_encoder,
            ("onnx", "tensor"): onnx,
            ("identity", "tensor"): identity,
        }
    )
