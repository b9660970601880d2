"""Sentence encoders as tensor models: `text` BYTES [-1] in, `embedding` FP32 [-1, n] out.

Each text is a row of its own: checked and cut into tokens when the request comes in, so that a bad
one is refused by name and costs nobody else anything, then computed in whatever batch it fits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType

import numpy as np
from prometheus_client import CollectorRegistry

from mesh.batching_options import BatchingOptions
from mesh.deployment import VersionSpec
from mesh.errors import FailedPrecondition, InvalidArgument
from mesh.tensor import Tensor, encode_raw
from services.inference.backends.backend import BackendSettings
from services.inference.batching.batcher import Batcher, open_batcher
from services.inference.batching.call import Batched
from services.inference.batching.metrics import BatchingMetrics
from services.inference.batching.run import Item, Ran
from services.inference.batching.terms import ANY_TIME, Terms
from services.inference.encoders.bert_encoder import (
    BertEncoder,
    TokenIds,
    Vector,
    load_bert_encoder,
    padded_width,
)
from services.inference.graph import session
from services.inference.models.tensor_model import Signature, TensorAnswer, TensorSpec
from services.inference.oip.byte_strings import read_texts

BATCH_TOKENS = 2048
"""Largest batch in tokens: larger ones are no faster on a CPU, and take memory in proportion."""
LONGEST_TEXT_BYTES = 1024 * 1024
"""A longer text is a mistake: its first few hundred words are all that would count."""
_LONG_TEXT_BYTES = 16 * 1024  # beyond this, tokens are made beside the event loop


class SentenceEncoderModel:
    """One version of a sentence encoder."""

    backend = session.BACKEND

    def __init__(
        self,
        spec: VersionSpec,
        encoder: BertEncoder,
        batcher: Batcher[TokenIds, Vector],
        batching: BatchingOptions,
        lifetime: AsyncExitStack,
    ) -> None:
        self.name = spec.manifest.name
        self.version = spec.version
        self.memory_bytes = encoder.memory_bytes
        self.signature = Signature(
            platform=session.PLATFORM,
            inputs=(TensorSpec("text", "BYTES", (-1,)),),
            outputs=(TensorSpec("embedding", "FP32", (-1, encoder.dimensions)),),
            batching=batching,
        )
        self._encoder = encoder
        self._batcher = batcher
        self._lifetime = lifetime

    def __repr__(self) -> str:
        return f"<SentenceEncoderModel {self.name}@{self.version} {self._batcher!r}>"

    async def infer(self, inputs: tuple[Tensor, ...], terms: Terms) -> TensorAnswer:
        """One vector per text; `prompt_tokens` counts what the encoder read."""
        (text,) = inputs
        rows = await self._tokenize(text)
        batched = await self._encode(rows, terms)
        return TensorAnswer(
            outputs=(self._output(batched.results),),
            timing=batched.timing,
            counts=MappingProxyType({"prompt_tokens": sum(map(len, rows))}),
        )

    async def warm_up(self) -> None:
        """A short row and the longest: the engine has its memory then."""
        longest = (0,) * self._encoder.max_tokens
        await self._encode([longest[:8], longest], ANY_TIME)

    async def close(self) -> None:
        """Ends the queue; the engine's memory goes back with the last reference."""
        await self._lifetime.aclose()

    async def _tokenize(self, text: Tensor) -> list[TokenIds]:
        texts = read_texts(text)
        for place, each in enumerate(texts):
            if len(each) > LONGEST_TEXT_BYTES:
                raise InvalidArgument(
                    f"inputs.text: element {place} has {len(each)} characters, "
                    f"more than {LONGEST_TEXT_BYTES}",
                    field="inputs.text",
                )
        if len(text.raw) <= _LONG_TEXT_BYTES:
            return self._encoder.tokenize(texts)
        return await asyncio.to_thread(self._encoder.tokenize, texts)

    async def _encode(self, rows: Sequence[TokenIds], terms: Terms) -> Batched[Vector]:
        widths = [padded_width(len(row), self._encoder.max_tokens) for row in rows]
        items = [Item(row, width, width) for row, width in zip(rows, widths, strict=True)]
        return await self._batcher.submit(items, terms)

    def _output(self, vectors: Sequence[Vector]) -> Tensor:
        shape = (len(vectors), self._encoder.dimensions)
        array = np.stack(vectors) if vectors else np.empty(shape, np.float32)
        return Tensor("embedding", "FP32", shape, encode_raw(array, "FP32"))


async def open_sentence_encoder(
    folder: Path,
    spec: VersionSpec,
    cache_dir: Path,
    settings: BackendSettings,
    *,
    max_queue_rows: int,
) -> SentenceEncoderModel:
    """Loads the encoder in `folder` and opens its queue.

    Raises:
        FailedPrecondition: the artefact is not an encoder that this node can run.
    """
    options, queue = spec.manifest.embedding, spec.manifest.batching
    if options is None or queue is None:
        raise FailedPrecondition(f"the manifest of {spec.manifest.name} has no embedding options")
    encoder = await asyncio.to_thread(
        load_bert_encoder,
        folder,
        model=spec.manifest.name,
        digest=spec.digest,
        max_tokens=options.max_tokens,
        cache_dir=cache_dir,
        settings=settings,
    )

    def run(rows: Sequence[TokenIds], width: int) -> Ran[Vector]:
        return Ran(encoder.encode(rows, width))

    lifetime = AsyncExitStack()
    batcher = await lifetime.enter_async_context(
        open_batcher(
            spec.manifest.name,
            [run],
            queue,
            BatchingMetrics(CollectorRegistry()).meter(spec.manifest.name, spec.version),
            max_rows=max_queue_rows,
            max_batch_width=BATCH_TOKENS,
        )
    )
    return SentenceEncoderModel(spec, encoder, batcher, queue, lifetime)
