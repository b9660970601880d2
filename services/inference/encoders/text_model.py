"""Models of texts as tensor models: `text` BYTES [-1] in, what an encoder makes of each text out.

Each text is a row of its own: checked and cut into tokens when the request comes in, so that a bad
one is refused by name and costs nobody else anything, then computed in whatever batch it fits. What
the vectors mean is the kind's to say: it gives the outputs and turns vectors into them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mesh.deployment import VersionSpec
from mesh.errors import FailedPrecondition, InvalidArgument
from mesh.tensor import Tensor
from services.inference.batching.batcher import Batcher, open_batcher
from services.inference.batching.call import Batched
from services.inference.batching.run import Item
from services.inference.batching.terms import OWN, Terms
from services.inference.encoders.bert_config import BertConfig
from services.inference.encoders.bert_encoder import (
    BertEncoder,
    TokenIds,
    Vector,
    load_bert_encoder,
    padded_width,
)
from services.inference.graph import session
from services.inference.loading_thread import load_in_thread
from services.inference.models.tensor_model import Signature, TensorAnswer, TensorSpec
from services.inference.models.tensor_place import TensorPlace
from services.inference.models.warm_up import answer_declared
from services.inference.oip.byte_strings import read_texts

BATCH_TOKENS = 2048
"""Largest batch in tokens: larger ones are no faster on a CPU, and take memory in proportion."""
LONGEST_TEXT_BYTES = 1024 * 1024
"""A longer text is a mistake: its first few hundred words are all that would count."""
_LONG_TEXT_BYTES = 16 * 1024  # beyond this, tokens are made beside the event loop


@dataclass(frozen=True, slots=True)
class TextOutputs:
    """What a kind of model answers, and how its vectors, one per text, become that."""

    specs: tuple[TensorSpec, ...]
    render: Callable[[NDArray[np.float32]], tuple[Tensor, ...]]


class TextModel:
    """One version of a model of texts."""

    def __init__(
        self,
        spec: VersionSpec,
        encoder: BertEncoder,
        outputs: TextOutputs,
        batcher: Batcher[TokenIds, Vector],
        lifetime: AsyncExitStack,
    ) -> None:
        self.name = spec.manifest.name
        self.version = spec.version
        self.backend = encoder.opening.backend
        self.remark = encoder.opening.remark
        self.device = encoder.opening.device
        self.pending = encoder.opening.pending
        self.memory_bytes = encoder.memory_bytes
        self.signature = Signature(
            platform=session.PLATFORM,
            inputs=(TensorSpec("text", "BYTES", (-1,)),),
            outputs=outputs.specs,
            batching=spec.manifest.batching,
            instances=spec.manifest.instances,
        )
        self._manifest = spec.manifest
        self._encoder = encoder
        self._render = outputs.render
        self._batcher = batcher
        self._lifetime = lifetime

    def __repr__(self) -> str:
        return f"<TextModel {self.name}@{self.version} {self._batcher!r}>"

    async def infer(self, inputs: tuple[Tensor, ...], terms: Terms) -> TensorAnswer:
        """What the model makes of each text; `prompt_tokens` counts what it read."""
        (text,) = inputs
        self._batcher.check_size(text.shape[0], terms)
        rows = await self._tokenize(text)
        batched = await self._encode(rows, terms)
        vectors = np.empty((len(rows), self._encoder.dimensions), np.float32)
        if rows:
            np.stack(batched.results, out=vectors)
        return TensorAnswer(
            outputs=self._render(vectors),
            timing=batched.timing,
            counts=MappingProxyType({"prompt_tokens": sum(map(len, rows))}),
        )

    async def warm_up(self) -> None:
        """A short row, and the largest batch: the engine has its memory then."""
        await answer_declared(self, self._manifest.warm_up)
        longest = (0,) * self._encoder.max_tokens
        await self._encode([longest[:8]], OWN)
        await self._encode([longest] * self._largest_batch(), OWN)

    async def broken(self) -> str:
        """Returns when the engine can do no more, and says why."""
        short = (0,) * min(8, self._encoder.max_tokens)
        return await self._batcher.broken(lambda: self._encode([short], OWN))

    async def close(self) -> None:
        """Ends the queue, then the engine."""
        await self._lifetime.aclose()

    def _largest_batch(self) -> int:
        batching = self.signature.batching
        rows = 1 if batching is None else batching.max_batch_size
        return max(1, min(rows, BATCH_TOKENS // self._encoder.max_tokens))

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


async def open_text_model(
    folder: Path,
    spec: VersionSpec,
    config: BertConfig,
    outputs: TextOutputs,
    place: TensorPlace,
    *,
    max_tokens: int,
) -> TextModel:
    """Loads the encoder in `folder` and opens its queue.

    Raises:
        FailedPrecondition: the artefact is not an encoder that this node can run.
    """
    queue = spec.manifest.batching
    if queue is None:
        raise FailedPrecondition(f"the manifest of {spec.manifest.name} has no batching options")
    encoder = await load_in_thread(
        lambda: load_bert_encoder(
            folder,
            config,
            spec,
            max_tokens=max_tokens,
            cache_dir=place.cache_dir,
            backends=place.backends,
        ),
        BertEncoder.close,
    )
    async with AsyncExitStack() as opened:
        opened.push_async_callback(asyncio.to_thread, encoder.close)
        batcher = await opened.enter_async_context(
            open_batcher(
                spec.manifest.name,
                encoder.runs,
                queue,
                place.metrics.meter(spec.manifest.name, spec.version),
                max_rows=place.max_queue_rows,
                max_batch_width=BATCH_TOKENS,
            )
        )
        return TextModel(spec, encoder, outputs, batcher, opened.pop_all())
