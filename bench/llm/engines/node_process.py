"""A node in a process of its own, with one version of a demo model: prints its address."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from exchange import CONTEXT_TOKENS, THREADS
from prometheus_client import CollectorRegistry

from mesh.deployment import VersionSpec
from mesh.manifest import Manifest
from mesh.model_options import GenerationOptions
from mesh.server import serve
from mesh.telemetry import open_telemetry
from services.inference.backends.available import make_backends
from services.inference.backends.backend import Backend, BackendSettings
from services.inference.bindings import make_bindings
from services.inference.llm.metrics import LanguageModelMetrics
from services.inference.llm.opening import open_language_model
from services.inference.models.loaded_model import LoadedModel
from services.inference.models.residence import Residence
from services.inference.models.state import Change
from services.inference.models.table import ModelTable

SLOTS = 16
Open = Callable[[Sequence[Backend]], Awaitable[LoadedModel]]


async def serve_model(name: str, open_model: Open) -> None:
    """Serves until it is ended."""
    key = (name, 1)
    backends = make_backends(BackendSettings(threads=THREADS, spin=True))
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(open_telemetry("bench", "bench-1", otlp_endpoint=None))
        table = await stack.enter_async_context(aclosing(ModelTable()))
        table.place(key)
        table.change(key, Change.LOAD_BEGAN)
        model = await open_model(backends)
        await model.warm_up()
        table.change(key, Change.LOADED, loaded=model)
        services = make_bindings("bench", table, Residence(), telemetry.tracer)
        server = await stack.enter_async_context(
            serve(listen="127.0.0.1:0", services=services, telemetry=telemetry, drain_timeout_s=1)
        )
        print(f"127.0.0.1:{server.port}", flush=True)  # noqa: T201 - for the parent
        await asyncio.Event().wait()


async def run(gguf: Path, cache_dir: Path, weights: str) -> None:
    """The language model, with that form of weights."""
    options = GenerationOptions(slots=SLOTS, max_context_tokens=CONTEXT_TOKENS, weights=weights)
    manifest = Manifest(name="smollm2", task="text-generation", format="gguf", generation=options)
    spec = VersionSpec(version=1, digest="0" * 64, manifest=manifest, files=())
    metrics = LanguageModelMetrics(CollectorRegistry())

    async def open_model(backends: Sequence[Backend]) -> LoadedModel:
        return await open_language_model(gguf.parent, spec, cache_dir, backends, metrics)

    await serve_model(manifest.name, open_model)


if __name__ == "__main__":
    model_file, cache, form = sys.argv[1:]
    asyncio.run(run(Path(model_file), Path(cache), form))
