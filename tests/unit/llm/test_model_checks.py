"""What a model refuses before it costs anything, and in which order it looks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from mesh.errors import InvalidArgument
from services.inference.llm.model import LoadedLanguageModel
from services.inference.llm.request import GenerationRequest
from tests.unit.llm.toy_backend import ToyBackend
from tests.unit.llm.toy_model import open_toy

CONTEXT = 128


class Closed(tuple[int, ...]):
    """Token ids of which only the number may be looked at, and what the first one is."""

    __slots__ = ()

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("walked through")


@pytest.fixture
async def model() -> AsyncIterator[LoadedLanguageModel]:
    opened = await open_toy("toy", ToyBackend(context_tokens=CONTEXT))
    yield opened
    await opened.close()


async def test_a_prompt_that_is_too_long_is_refused_by_its_length(
    model: LoadedLanguageModel,
) -> None:
    for size in (CONTEXT, 1_000_000):
        with pytest.raises(InvalidArgument, match=f"has {size} tokens or more") as refused:
            await model.generate_text(GenerationRequest(Closed([1] * size)))
        assert refused.value.field == "prompt"


@pytest.mark.parametrize("too_many", [1, 1_000_000])
async def test_tokens_to_go_on_from_must_fit_behind_the_prompt(
    model: LoadedLanguageModel, too_many: int
) -> None:
    prompt = (1, 2, 3)
    room = CONTEXT - len(prompt)
    resumed = Closed([1] * (room + too_many))
    with pytest.raises(InvalidArgument, match=f"takes {room}") as refused:
        await model.generate_text(GenerationRequest(prompt, resume_token_ids=resumed))
    assert refused.value.field == "resume_token_ids"
    whole = await model.generate_text(GenerationRequest(prompt, resume_token_ids=(1,) * room))
    assert whole.finished.completion_tokens == room


async def test_a_token_outside_the_vocabulary_is_refused_wherever_it_stands(
    model: LoadedLanguageModel,
) -> None:
    for prompt, resumed, field in (((1, 64), (), "prompt"), ((1,), (2, -1), "resume_token_ids")):
        with pytest.raises(InvalidArgument, match="outside the vocabulary of 64") as refused:
            await model.generate_text(GenerationRequest(prompt, resume_token_ids=resumed))
        assert refused.value.field == field
