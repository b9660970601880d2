"""Opens a language model: describes its files, loads it on a backend, starts its scheduler.

All that the node needs to know of this package. What the model's files say beside the weights is
read here; how a backend turns the weights into something that runs is its own business.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from mesh import native_server
from mesh.deployment import VersionSpec
from mesh.errors import FailedPrecondition
from mesh.model_options import GenerationOptions
from services.inference.backends.backend import Backend
from services.inference.backends.choice import Opening, open_first
from services.inference.backends.kept_weights import remark_on
from services.inference.llm.decoder import Decoder
from services.inference.llm.description import Description, describe
from services.inference.llm.metrics import LanguageModelMetrics
from services.inference.llm.model import LoadedLanguageModel
from services.inference.llm.model_files import open_model_files
from services.inference.llm.scheduler import open_scheduler
from services.inference.llm.slot_backend import SlotBackend
from services.inference.llm.vocabulary import Vocabulary
from services.inference.loading_thread import load_in_thread


async def open_language_model(
    folder: Path,
    spec: VersionSpec,
    cache_dir: Path,
    backends: Sequence[Backend],
    metrics: LanguageModelMetrics,
) -> LoadedLanguageModel:
    """Loads the model in `folder`; the first time on this machine takes some seconds more.

    Raises:
        FailedPrecondition: it is not a language model that any backend of this node runs.
    """
    options = _options(spec)
    described, backend, opening = await load_in_thread(
        lambda: open_on_backend(folder, spec, cache_dir, backends),
        lambda opened: opened[1].close(),
    )
    name, version = spec.manifest.name, spec.version
    async with AsyncExitStack() as opened:
        opened.callback(backend.close)
        vocabulary = Vocabulary(described.tokenizer, described.config.vocabulary)
        scheduler = await opened.enter_async_context(
            open_scheduler(
                backend,
                vocabulary.text_bytes,
                chunk_tokens=options.prefill_chunk_tokens,
                max_queue=options.max_queue,
                meter=metrics.engine_meter(name, version),
                keep_off=native_server.keep_off,
            )
        )
        meter = opened.enter_context(metrics.watching(name, version, lambda: scheduler.occupancy))
        return LoadedLanguageModel(
            name,
            version,
            rules=described.rules,
            vocabulary=vocabulary,
            backend=backend,
            scheduler=scheduler,
            meter=meter,
            lifetime=opened.pop_all(),
            remark=opening.remark,
            device=opening.device,
            pending=opening.pending,
        )


def open_on_backend(
    folder: Path, spec: VersionSpec, cache_dir: Path, backends: Sequence[Backend]
) -> tuple[Description, SlotBackend, Opening]:
    """The model's description, and its decoder on the first backend that takes it; blocking."""
    model, options = spec.manifest.name, _options(spec)
    described = describe(folder, model=model, digest=spec.digest, cache_dir=cache_dir)
    decoder = Decoder(
        model=model,
        digest=spec.digest,
        config=described.config,
        context_tokens=min(options.max_context_tokens, described.config.trained_context_tokens),
        precision=options.weights,
        cache_dir=cache_dir,
        open_weights=partial(open_model_files, folder),
        compute=spec.manifest.precision,
    )

    def open_slots(backend: Backend) -> SlotBackend:
        return backend.open_slots(decoder, options.slots)

    slots, opening = open_first(spec.manifest.backend, backends, open_slots)
    told = remark_on(backends, opening.backend, decoder.precision, decoder.compute)
    remark = "; ".join(each for each in (opening.remark, told) if each)
    return described, slots, replace(opening, remark=remark)


def _options(spec: VersionSpec) -> GenerationOptions:
    options = spec.manifest.generation
    if options is None:
        raise FailedPrecondition(f"the manifest of {spec.manifest.name} has no generation options")
    return options
