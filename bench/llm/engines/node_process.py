"""A node in a process of its own, with one version of a demo model: prints its address.

Asked on its standard input, it runs the bare loop over its language model's slots, for as long as
nobody asks for an answer: what is around that loop is then measured in one process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from bare_loop import decode_rate
from exchange import CONTEXT_TOKENS, THREADS
from prometheus_client import CollectorRegistry

from mesh.deployment import VersionSpec
from mesh.manifest import Manifest
from mesh.model_options import GenerationOptions
from mesh.server import serve
from mesh.telemetry import open_telemetry
from services.inference.backends.backend import Backend, BackendSettings
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.bindings import make_bindings
from services.inference.llm.decoder import Decoder
from services.inference.llm.metrics import LanguageModelMetrics
from services.inference.llm.opening import open_language_model
from services.inference.llm.slot_backend import SlotBackend
from services.inference.models.loaded_model import LoadedModel
from services.inference.models.residence import Residence
from services.inference.models.state import Change
from services.inference.models.table import ModelTable

SLOTS = 16
SETTINGS = BackendSettings(threads=THREADS, spin=True)
Open = Callable[[Sequence[Backend]], Awaitable[LoadedModel]]


class SlotsAtHand(OnnxRuntimeBackend):
    """The CPU's backend, whose slots can be had beside the engine."""

    slots: SlotBackend

    def open_slots(self, decoder: Decoder, slots: int) -> SlotBackend:
        """As ever."""
        self.slots = super().open_slots(decoder, slots)
        return self.slots


async def serve_model(name: str, open_model: Open, backends: Sequence[Backend]) -> None:
    """Serves until it is ended."""
    key = (name, 1)
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


def answer_beside(backend: SlotsAtHand) -> None:
    """Bare rates for those who ask: streams and tokens in, tokens per second out."""
    for line in sys.stdin:
        rate = decode_rate(backend.slots, *json.loads(line))
        print(json.dumps(rate), flush=True)  # noqa: T201 - for the parent


async def run(gguf: Path, cache_dir: Path, weights: str) -> None:
    """The language model, with that form of weights."""
    options = GenerationOptions(slots=SLOTS, max_context_tokens=CONTEXT_TOKENS, weights=weights)
    manifest = Manifest(name="smollm2", task="text-generation", format="gguf", generation=options)
    spec = VersionSpec(version=1, digest="0" * 64, manifest=manifest, files=())
    metrics = LanguageModelMetrics(CollectorRegistry())

    async def open_model(backends: Sequence[Backend]) -> LoadedModel:
        return await open_language_model(gguf.parent, spec, cache_dir, backends, metrics)

    backend = SlotsAtHand(SETTINGS)
    threading.Thread(target=answer_beside, args=[backend], daemon=True).start()
    await serve_model(manifest.name, open_model, [backend])


if __name__ == "__main__":
    model_file, cache, form = sys.argv[1:]
    asyncio.run(run(Path(model_file), Path(cache), form))
