"""What a message asks for, and that lists too long to fit are refused before they are walked."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import InvalidArgument
from mesh.pb import node_pb2
from services.inference.generation.request import read_request
from services.inference.llm.request import GenerationRequest

CONTEXT = 64


def read(message: node_pb2.GenerateRequest) -> GenerationRequest:
    return read_request(message, context_tokens=CONTEXT, timeout_s=None, session=None)


def with_lists(size: int) -> dict[str, dict[str, Any]]:
    return {
        "token ids": {"token_ids": node_pb2.TokenIds(ids=[1] * size)},
        "messages": {"chat": node_pb2.ChatPrompt(messages=[node_pb2.ChatMessage()] * size)},
        "resumed": {"text": "a", "resume_token_ids": [1] * size},
    }


@pytest.mark.parametrize(
    ("kind", "field"),
    [("token ids", "prompt"), ("messages", "prompt"), ("resumed", "resume_token_ids")],
)
def test_more_than_the_context_has_room_for_is_refused_by_its_size(kind: str, field: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{CONTEXT + 1} .* too many; {CONTEXT} fit") as wrong:
        read(node_pb2.GenerateRequest(**with_lists(CONTEXT + 1)[kind]))
    assert wrong.value.field == field
    read(node_pb2.GenerateRequest(**with_lists(CONTEXT)[kind]))  # its model may yet refuse it


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"stop": ["x"] * 17}, "stop"),
        ({"choice": node_pb2.Choice(texts=["x"] * 4097)}, "choice"),
    ],
)
def test_lists_with_a_bound_of_their_own_keep_it(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument, match="too many") as wrong:
        read(node_pb2.GenerateRequest(text="a", **fields))
    assert wrong.value.field == field
