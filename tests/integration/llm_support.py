"""What the tests of language models share: a loaded demo model, and the golden data."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from mesh.deployment import VersionSpec
from mesh.manifest import Manifest
from services.inference.backends.available import make_backends
from services.inference.backends.backend import Backend, BackendSettings
from services.inference.llm.chat_template import ChatMessage
from services.inference.llm.decoder import Decoder
from services.inference.llm.description import describe
from services.inference.llm.metrics import LanguageModelMetrics
from services.inference.llm.model_files import open_model_files
from services.inference.llm.opening import open_language_model
from services.inference.llm.request import GenerationRequest, SamplingRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from services.inference.llm.model import LoadedLanguageModel

REFERENCE = Path(__file__).parents[1] / "reference"
DIGEST = "5" * 64


@cache
def golden() -> dict[str, Any]:
    """The reference implementation's answers."""
    data: dict[str, Any] = json.loads((REFERENCE / "smollm2.json").read_text())
    return data


def spec_of(**generation: Any) -> VersionSpec:
    manifest = {
        "name": "smollm2",
        "task": "text-generation",
        "format": "gguf",
        "generation": generation,
    }
    return VersionSpec(
        version=1, digest=DIGEST, manifest=Manifest.from_json(json.dumps(manifest)), files=()
    )


@asynccontextmanager
async def open_model(
    gguf: Path,
    cache_dir: Path,
    registry: CollectorRegistry | None = None,
    *,
    backends: Sequence[Backend] | None = None,
    **generation: Any,
) -> AsyncIterator[LoadedLanguageModel]:
    """The demo model under the given generation options."""
    metrics = LanguageModelMetrics(registry or CollectorRegistry())
    backends = backends or make_backends(BackendSettings())
    model = await open_language_model(
        gguf.parent, spec_of(**generation), cache_dir, backends, metrics
    )
    try:
        yield model
    finally:
        await model.close()


def decoder_of(folder: Path, cache_dir: Path, **changes: Any) -> Decoder:
    """The model of a folder, as backends take it."""
    described = describe(folder, model="smollm2", digest=DIGEST, cache_dir=cache_dir)
    decoder = Decoder(
        model="smollm2",
        digest=DIGEST,
        config=described.config,
        context_tokens=256,
        precision="int8",
        cache_dir=cache_dir,
        open_weights=partial(open_model_files, folder),
    )
    return replace(decoder, **changes)


def chat(*turns: tuple[str, str]) -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage(role, content) for role, content in turns)


def golden_request(case: dict[str, Any], max_tokens: int) -> GenerationRequest:
    """The request that a golden generation answers."""
    prompt = (
        tuple(ChatMessage(**message) for message in case["chat"])
        if "chat" in case
        else case["text"]
    )
    return GenerationRequest(prompt, SamplingRequest(temperature=0), max_tokens=max_tokens)
