"""The language model against golden data of the reference implementation (tests/reference)."""

from __future__ import annotations

import asyncio
import math
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from services.inference.backends.backend import BackendSettings
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.chat_template import ChatMessage, ChatTemplate
from services.inference.llm.description import Description, describe
from services.inference.llm.opening import open_on_backend
from services.inference.llm.slot_backend import SlotBackend
from services.inference.llm.vocabulary import Vocabulary
from tests.integration.llm_support import (
    DIGEST,
    golden,
    golden_request,
    open_model,
    spec_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.model

NEW_TOKENS = 48
SLOTS = 16
LICENCE = Path(__file__).parents[2] / "LICENSE"


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "compiled"


@pytest.fixture(scope="module")
def described(demo_models: Any, cache_dir: Path) -> Description:
    folder = demo_models.smollm2_gguf.parent
    return describe(folder, model="smollm2", digest=DIGEST, cache_dir=cache_dir)


async def test_greedy_fp32_is_the_reference_token_for_token(
    demo_models: Any, cache_dir: Path
) -> None:
    cases = golden()["generations"]
    assert len(cases) == 20
    async with open_model(demo_models.smollm2_gguf, cache_dir, weights="fp32") as model:
        answers = await asyncio.gather(
            *(model.generate_text(golden_request(case, NEW_TOKENS)) for case in cases)
        )
    for case, answer in zip(cases, answers, strict=True):
        ended = case["greedy_ids"][-1] == 2
        expected = case["greedy_ids"][:-1] if ended else case["greedy_ids"]
        assert list(answer.token_ids) == expected
        assert answer.text == case["greedy_text"]
        assert answer.started.prompt_tokens == len(case["prompt_ids"])
        assert answer.finished.reason.value == ("stop" if ended else "length")
        assert answer.finished.completion_tokens == len(expected)
    assert max(answer.finished.largest_batch for answer in answers) == 8


@pytest.mark.parametrize("weights", ["int8", "int8-blocks"])
def test_int8_keeps_the_perplexity(demo_models: Any, cache_dir: Path, weights: str) -> None:
    reference = golden()["perplexity"]
    assert reference["tokens"] >= 700
    with opened(demo_models, cache_dir, weights) as (vocabulary, backend):
        ids = vocabulary.encode(reference["text"])
        assert len(ids) == reference["tokens"]
        ratio = perplexity(backend, ids) / reference["fp32"]
    assert abs(ratio - 1) < 0.01


@pytest.mark.parametrize(("weights", "allowed"), [("int8", 0.01), ("int8-blocks", 0.005)])
def test_int8_adds_little_perplexity_to_what_the_model_itself_would_write(
    demo_models: Any, cache_dir: Path, weights: str, allowed: float
) -> None:
    """The divergence is the logarithm of the growth, and needs far less text to be told exactly."""
    text = golden()["perplexity"]["text"] + LICENCE.read_text()
    with (
        opened(demo_models, cache_dir, "fp32") as (vocabulary, exact),
        opened(demo_models, cache_dir, weights) as (_, rounded),
    ):
        ids = np.array(vocabulary.encode(text))
        lines = ids[: len(ids) // SLOTS * SLOTS].reshape(SLOTS, -1)
        growth = np.mean([divergence(exact, rounded, lines, at) for at in range(lines.shape[1])])
    assert 0 < growth < allowed


def test_the_architecture_is_read_from_the_file(described: Description) -> None:
    assert described.config == LlamaConfig(
        layers=30,
        hidden=576,
        intermediate=1536,
        heads=9,
        kv_heads=3,
        head_dim=64,
        vocabulary=49152,
        rope_theta=100_000.0,
        rms_epsilon=float(np.float32(1e-5)),
        trained_context_tokens=8192,
        tied_embeddings=True,
    )
    assert described.rules.end_ids == {2}


def test_text_becomes_the_reference_tokens_and_comes_back(described: Description) -> None:
    vocabulary = Vocabulary(described.tokenizer)
    for case in golden()["tokenizer"]:
        ids = vocabulary.encode(case["text"])
        assert ids == case["ids"]
        assert b"".join(map(vocabulary.name_bytes, ids)).decode() == case["text"]


def test_conversations_are_rendered_as_by_the_reference(described: Description) -> None:
    template = ChatTemplate(described.rules, now=lambda: pytest.fail("this template has no date"))
    for case in golden()["chat_template"]:
        messages = [ChatMessage(**message) for message in case["messages"]]
        assert template.render(messages) == case["text"]


@contextmanager
def opened(demo_models: Any, cache_dir: Path, weights: str) -> Iterator[tuple[Vocabulary, Any]]:
    described, backend, _ = open_on_backend(
        demo_models.smollm2_gguf.parent,
        spec_of(slots=SLOTS, max_context_tokens=1024, weights=weights),
        cache_dir,
        [OnnxRuntimeBackend(BackendSettings(threads=2))],
    )
    with closing(backend):
        yield Vocabulary(described.tokenizer), backend


def divergence(exact: SlotBackend, rounded: SlotBackend, lines: np.ndarray, position: int) -> float:
    """Of the next token's distributions, the mean over the lines."""
    tokens, starts = lines[:, position].tolist(), [position] * len(lines)
    wanted, found = (log_softmax(each.decode(tokens, starts)) for each in (exact, rounded))
    return float((np.exp(wanted) * (wanted - found)).sum(axis=1).mean())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def perplexity(backend: SlotBackend, ids: list[int]) -> float:
    loss = 0.0
    for position, token in enumerate(ids[:-1]):
        logits = backend.decode([token], [position])[0].astype(np.float64)
        loss += (
            math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[position + 1]]
        )
    return math.exp(loss / (len(ids) - 1))
