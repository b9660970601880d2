"""Text comes whole: characters, and what is not of a stop string."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.inference.llm.text_stream import TextStream


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def run(pieces: list[bytes], stops: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = TextStream(stops)
    texts = []
    for piece in pieces:
        texts.append(stream.feed(piece))
        if stream.is_stopped:
            break
    return [*texts, stream.finish()], stream.is_stopped


@given(st.text(), st.lists(st.integers(0, 1000)))
def test_however_bytes_are_cut_the_text_is_whole(text: str, places: list[int]) -> None:
    texts, _ = run(cut(text.encode(), places))
    assert "".join(texts) == text


@given(st.binary(), st.lists(st.integers(0, 1000)))
def test_broken_bytes_are_replaced_as_when_decoded_at_once(data: bytes, places: list[int]) -> None:
    whole = data.decode(errors="replace")
    text = "".join(run(cut(data, places))[0])
    # Only the unfinished character at the very end stays unsaid.
    assert whole in (text, text + "\N{REPLACEMENT CHARACTER}")


# Whole characters of every length, pieces of them, and bytes that are never UTF-8.
pieces = st.one_of(
    st.sampled_from(["a", "\u00e9", "\u20ac", "\U0001f337"]).map(str.encode),
    st.sampled_from([b"\xf0", b"\xf0\x9f", b"\x8c", b"\xe2\x82", b"\xc3", b"\xff", b"\xc0\x80"]),
)


@given(
    st.lists(pieces, max_size=30).map(b"".join),
    st.lists(st.integers(0, 1000)),
    st.lists(st.sampled_from(["a", "\u00e9a", "\u20ac\U0001f337", "\ufffd"]), max_size=2),
)
def test_half_a_character_is_never_said_whatever_the_tokens_are(
    data: bytes, places: list[int], stops: list[str]
) -> None:
    texts, stopped = run(cut(data, places), tuple(stops))
    whole = data.decode(errors="replace")
    said = "".join(texts)
    # What is said of the first tokens stays the beginning of what all of them say.
    assert whole.startswith(said)
    if not stopped:
        assert whole in (said, said + "\N{REPLACEMENT CHARACTER}")


@given(
    st.text("abc", max_size=30),
    st.lists(st.integers(0, 1000)),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_nothing_of_a_stop_string_is_emitted(
    text: str, places: list[int], stops: list[str]
) -> None:
    texts, stopped = run(cut(text.encode(), places), tuple(stops))
    emitted = "".join(texts)
    assert text.startswith(emitted)
    assert not any(stop in emitted for stop in stops)
    assert stopped == any(stop in text for stop in stops)
    if not stopped:
        assert emitted == text


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_one_character_at_a_time_it_stops_where_the_first_stop_string_ends(
    text: str, stops: list[str]
) -> None:
    texts, stopped = run([character.encode() for character in text], tuple(stops))
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if stopped:
        first = min(ends)
        longest = max((stop for stop in stops if text[:first].endswith(stop)), key=len)
        assert "".join(texts) == text[: first - len(longest)]


@given(st.text("ab", max_size=20), st.text("ab", min_size=1, max_size=3))
def test_only_what_may_become_a_stop_string_is_held_back(text: str, stop: str) -> None:
    stream = TextStream((stop,))
    emitted = stream.feed(text.encode())
    if not stream.is_stopped:
        assert stop.startswith(text[len(emitted) :])


def test_a_character_over_two_tokens_waits_for_its_end() -> None:
    stream = TextStream()
    assert stream.feed(b"\xf0\x9f") == ""
    assert stream.feed(b"\x8c\xb7!") == "\N{TULIP}!"


def test_after_a_stop_nothing_comes() -> None:
    stream = TextStream(("\n\n",))
    assert stream.feed(b"one\n") == "one"
    assert stream.feed(b"\ntwo") == ""
    assert stream.is_stopped
    assert stream.feed(b"three") == ""
    assert stream.finish() == ""
