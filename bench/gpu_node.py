"""The node's own models on the best backend of a machine, and what they do per second.

Models are opened as a node opens them: on what runs at once, then on the engine that was built for
them. Streams go through the scheduler, without gRPC, which costs a GPU's node as much as any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry

from mesh.deployment import VersionSpec
from mesh.manifest import Manifest
from services.inference.backends.available import make_backends
from services.inference.backends.backend import Backend, BackendSettings
from services.inference.backends.choice import offer
from services.inference.backends.pending import Pending
from services.inference.encoders.bert_encoder import BertEncoder, load_bert_encoder
from services.inference.encoders.sentence_config import read_sentence_config
from services.inference.llm.metrics import LanguageModelMetrics
from services.inference.llm.model import LoadedLanguageModel
from services.inference.llm.opening import open_language_model
from services.inference.llm.request import (
    LARGEST_LOGPROBS,
    Delta,
    GenerationRequest,
    SamplingRequest,
)

SEQUENCE = 128
_VOCABULARY = range(1000, 20_000)

Opened = TypeVar("Opened")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much to measure."""

    streams: tuple[int, ...]
    tokens: int
    prompt_tokens: int
    rows: tuple[int, ...]
    rounds: int


@dataclass(frozen=True, slots=True)
class BenchModels:
    """The folders of a language model and of a sentence encoder, and what to call them."""

    title: str
    decoder: Path
    decoder_format: str
    encoder: Path


class Bench:
    """The demo models on one backend, or on the best."""

    def __init__(self, models: BenchModels, work: Path, sizes: Sizes, backend: str) -> None:
        self._models, self._work = models, work
        self._sizes = sizes
        self._backend = backend
        self._backends: Sequence[Backend] = make_backends(BackendSettings())

    def refusals(self) -> list[str]:
        """Why backends do not run here."""
        found = (offer(each).refusal for each in self._backends)
        return [refusal.message for refusal in found if refusal is not None]

    async def language_model(self) -> LoadedLanguageModel:
        """The language model, warm."""
        spec = self._spec(
            self._models.decoder_format,
            "text-generation",
            precision="auto",
            generation={
                "slots": max(self._sizes.streams),
                "max_context_tokens": max(
                    self._sizes.prompt_tokens,
                    decode_tokens(max(self._sizes.streams), self._sizes.tokens),
                )
                + 64,
                "prefill_chunk_tokens": min(512, self._sizes.prompt_tokens),
                "max_queue": 4 * max(self._sizes.streams),
                "weights": "fp32",
            },
        )
        metrics = LanguageModelMetrics(CollectorRegistry())

        async def open_it() -> LoadedLanguageModel:
            return await open_language_model(
                self._models.decoder, spec, self._work, self._backends, metrics
            )

        model = await self._best(open_it, lambda model: model.pending, LoadedLanguageModel.close)
        await model.warm_up()
        return model

    async def encoder(self) -> BertEncoder:
        """The sentence encoder."""
        spec = self._spec("sentence-transformers", "text-embedding", precision="auto")
        config = read_sentence_config(self._models.encoder)

        async def open_it() -> BertEncoder:
            return await asyncio.to_thread(
                load_bert_encoder,
                self._models.encoder,
                config,
                spec,
                max_tokens=SEQUENCE,
                cache_dir=self._work,
                backends=self._backends,
            )

        async def close(encoder: BertEncoder) -> None:
            encoder.close()

        return await self._best(open_it, lambda encoder: encoder.opening.pending, close)

    async def _best(
        self,
        open_it: Callable[[], Awaitable[Opened]],
        pending_of: Callable[[Opened], Pending | None],
        close: Callable[[Opened], Awaitable[None]],
    ) -> Opened:
        """Opened, and opened again where an engine had to be built for it."""
        opened = await open_it()
        work = pending_of(opened)
        if work is None:
            return opened
        await asyncio.to_thread(work.prepare)
        await close(opened)
        return await open_it()

    def _spec(self, format_: str, task: str, **options: Any) -> VersionSpec:
        manifest = {"name": task, "task": task, "format": format_, "backend": self._backend}
        text = json.dumps(manifest | options)
        digest = ("a" if task == "text-generation" else "b") * 64
        return VersionSpec(version=1, digest=digest, manifest=Manifest.from_json(text), files=())


def prompt(number: int, tokens: int) -> tuple[int, ...]:
    """Tokens that no other prompt begins with."""
    return tuple(random.Random(number).choices(_VOCABULARY, k=tokens))  # noqa: S311 - no secret


async def greedy(model: LoadedLanguageModel, number: int, tokens: int) -> list[int]:
    """The tokens that the model thinks likeliest."""
    request = GenerationRequest(
        prompt(number, 24), SamplingRequest(temperature=0), max_tokens=tokens, ignore_eos=True
    )
    return list((await model.generate_text(request)).token_ids)


async def likeliest(model: LoadedLanguageModel, number: int) -> dict[int, float]:
    """The likeliest tokens after a prompt, with their log probabilities."""
    request = GenerationRequest(
        prompt(number, 24),
        SamplingRequest(temperature=0),
        max_tokens=1,
        ignore_eos=True,
        logprobs=LARGEST_LOGPROBS,
    )
    async with contextlib.aclosing(model.generate(request)) as events:
        deltas = [event async for event in events if isinstance(event, Delta)]
    return dict(next(each for delta in deltas for each in delta.logprobs).top)


def decode_tokens(streams: int, tokens: int) -> int:
    """How much each stream answers, so that the first still runs when the last one has begun."""
    return tokens + 2 * streams


async def decode_rate(model: LoadedLanguageModel, streams: int, tokens: int) -> float:
    """Tokens per second of all streams, while all of them run."""

    async def stream(number: int) -> list[int]:
        request = GenerationRequest(
            prompt(1000 * streams + number, 16),
            SamplingRequest(temperature=0),
            max_tokens=decode_tokens(streams, tokens),
            ignore_eos=True,
        )
        at_ns: list[int] = []
        async with contextlib.aclosing(model.generate(request)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    at_ns += [event.at_ns] * len(event.token_ids)
        return at_ns

    times = await asyncio.gather(*(stream(number) for number in range(streams)))
    return rate_while_all_run(times)


def rate_while_all_run(times: Sequence[Sequence[int]]) -> float:
    """Tokens per second between the last stream's first token and the first stream's last."""
    begin, end = max(each[0] for each in times), min(each[-1] for each in times)
    if end <= begin:  # they never all ran at once
        begin, end = min(each[0] for each in times), max(each[-1] for each in times)
    count = sum(begin < at_ns <= end for each in times for at_ns in each)
    return count / ((end - begin) / 1e9)


async def prefill_rate(model: LoadedLanguageModel, tokens: int, rounds: int) -> float:
    """Prompt tokens per second, one prompt at a time."""
    taken_us = []
    for number in range(rounds):
        request = GenerationRequest(
            prompt(777_000 + number, tokens), SamplingRequest(temperature=0), max_tokens=1
        )
        taken_us.append((await model.generate_text(request)).finished.prefill_us)
    return tokens / (float(np.median(taken_us)) / 1e6)


def encode_rate(encoder: BertEncoder, rows: int, rounds: int) -> float:
    """Sentences of 128 tokens per second."""
    batch = [prompt(number, SEQUENCE) for number in range(rows)]
    encoder.encode(batch, SEQUENCE)
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        encoder.encode(batch, SEQUENCE)
        taken.append(time.perf_counter() - began)
    return rows / float(np.median(taken))
