"""The order of the facts that make a key, and that every key can be a header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.affinity import affinity_key, chat_head, text_head, token_head

FACTS = {
    "session": "s",
    "conversation": "c",
    "user": "u",
    "sequence": 7,
    "prompt_head": "hello",
}


def test_the_first_fact_decides() -> None:
    keys = []
    facts = dict(FACTS)
    while facts:
        key = affinity_key(**facts)
        first = next(iter(facts))
        assert key == affinity_key(**{first: facts.pop(first)})
        keys.append(key)
    assert len(set(keys)) == len(FACTS)


def test_a_session_passes_as_it_came_and_everything_else_is_hashed() -> None:
    assert affinity_key(session="abc-1") == "abc-1"
    assert affinity_key(user="ada@example.org") != "ada@example.org"


@pytest.mark.parametrize("facts", [{}, {"session": ""}, {"sequence": 0}, {"sequence": ""}])
def test_nothing_has_no_key(facts: dict) -> None:
    assert affinity_key(**facts) is None


@given(st.sampled_from(sorted(FACTS.keys() - {"sequence"})), st.text(min_size=1))
def test_every_key_is_a_header_value(fact: str, value: str) -> None:
    key = affinity_key(**{fact: value})
    assert key
    assert key.isascii()
    assert key.isprintable()
    assert len(key) <= 256


TURNS = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text()), min_size=1)


@given(st.lists(st.text(), max_size=2), TURNS, TURNS)
def test_a_conversation_keeps_its_head_as_it_grows(systems, turns, more) -> None:
    prompts = [("system", text) for text in systems]
    assert chat_head(prompts + turns) == chat_head(prompts + turns + more)


def test_different_beginnings_have_different_heads() -> None:
    heads = {
        chat_head([("user", "a")]),
        chat_head([("user", "b")]),
        chat_head([("system", "x"), ("user", "a")]),
        chat_head([("system", "x"), ("user", "b")]),
    }
    assert len(heads) == 4


def test_growing_prompts_keep_their_head() -> None:
    long = "word " * 100
    assert text_head(long) == text_head(long + "more")
    assert token_head(range(100)) == token_head(range(200))
