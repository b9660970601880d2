"""A model of texts: what it refuses, and how it keeps itself warm, over an engine of numpy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from mesh.deployment import VersionSpec
from mesh.errors import InvalidArgument
from mesh.manifest import Manifest
from mesh.tensor import Array, Tensor
from services.inference.backends.backend import GraphTensor
from services.inference.backends.choice import Opening
from services.inference.backends.instance_group import InstanceGroup
from services.inference.batching.batcher import open_batcher
from services.inference.batching.metrics import BatchingMetrics
from services.inference.batching.terms import ANY_TIME
from services.inference.encoders.bert_encoder import BertEncoder
from services.inference.encoders.text_model import TextModel, TextOutputs
from services.inference.models.tensor_model import TensorSpec


class Lengths:
    """An engine whose vector for a row is its number of tokens."""

    is_concurrent = True
    memory_bytes = 0
    inputs = ()
    outputs = (GraphTensor("embedding", "FP32", (-1, 1)),)

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, _outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        self.shapes.append(inputs["input_ids"].shape)
        return [inputs["lengths"].astype("<f4")[:, None]]

    def close(self) -> None:
        """Nothing to free."""


def render(vectors: Array) -> tuple[Tensor, ...]:
    return (Tensor("embedding", "FP32", vectors.shape, vectors.astype("<f4").tobytes()),)


OUTPUTS = TextOutputs((TensorSpec("embedding", "FP32", (-1, 1)),), render)


@asynccontextmanager
async def opened(
    engine: Lengths, *, max_tokens: int = 16, max_rows: int = 100, **options: Any
) -> AsyncIterator[TextModel]:
    document = {"name": "m", "task": "text-embedding", "format": "sentence-transformers"}
    manifest = Manifest.model_validate({**document, "batching": options})
    assert manifest.batching is not None
    spec = VersionSpec(version=1, digest="0" * 64, manifest=manifest, files=())
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    encoder = BertEncoder(
        tokenizer, InstanceGroup((engine,)), max_tokens=max_tokens, opening=Opening("numpy")
    )
    meter = BatchingMetrics(CollectorRegistry()).meter("m", 1)
    async with open_batcher(
        "m", encoder.runs, manifest.batching, meter, max_rows=max_rows
    ) as batcher:
        yield TextModel(spec, encoder, OUTPUTS, batcher, AsyncExitStack())


async def test_texts_are_counted_before_they_are_read() -> None:
    async with opened(Lengths()) as model:
        asked = Tensor("text", "BYTES", (10**12,), b"\x01\x00\x00\x00\xff")
        with pytest.raises(InvalidArgument, match="rows are more than the 100 that may wait"):
            await model.infer((asked,), ANY_TIME)


async def test_each_text_gets_what_the_engine_makes_of_it() -> None:
    async with opened(Lengths()) as model:
        asked = Tensor("text", "BYTES", (2,), b"\x03\x00\x00\x00a b\x01\x00\x00\x00a")
        (vectors,) = (await model.infer((asked,), ANY_TIME)).outputs
    assert np.frombuffer(vectors.raw, "<f4").tolist() == [2, 1]


async def test_the_callers_queue_policy_does_not_apply_to_the_warm_up() -> None:
    engine = Lengths()
    policy = {"max_queue_rows": 2, "default_timeout_ms": 0.000001}
    async with opened(engine, max_batch_size=8, default_queue_policy=policy) as model:
        await model.warm_up()
    assert engine.shapes == [(1, 8), (8, 16)]
