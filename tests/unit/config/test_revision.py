"""What follows a revision, and what stored documents amount to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Conflict, InvalidArgument
from services.config.definition import make_definitions
from services.config.revision import (
    LONGEST_NOTE,
    Change,
    Revision,
    Setting,
    next_revision,
    read_history,
    read_setting,
    read_settings,
    values_key,
)

DEFINITIONS = make_definitions()
FACTOR = DEFINITIONS["routing.hash_balance_factor"]
CHANGE = Change("ada", "a busy evening", 1_000)


def at(revision: int, value: int) -> Setting:
    return Setting(FACTOR, Revision(value=value, revision=revision))


def test_a_setting_that_nobody_changed_is_its_default() -> None:
    setting = read_setting(FACTOR, None)
    assert (setting.value, setting.revision) == (200, 0)


def test_the_first_change_is_revision_one_and_says_who_and_why() -> None:
    revision = next_revision(Setting(FACTOR, None), 300, CHANGE, expected=0, last=0)
    assert revision == Revision(
        value=300, revision=1, changed_unix_ms=1_000, actor="ada", reason="a busy evening"
    )


def test_the_default_can_be_pinned() -> None:
    assert next_revision(Setting(FACTOR, None), 200, CHANGE, expected=None, last=0) is not None


def test_the_value_that_is_there_makes_no_new_revision() -> None:
    assert next_revision(at(3, 300), 300, CHANGE, expected=None, last=3) is None


@given(seen=st.integers(0, 9), now=st.integers(1, 9))
def test_only_the_revision_that_was_expected_is_replaced(seen: int, now: int) -> None:
    if seen == now:
        assert next_revision(at(now, 300), 400, CHANGE, expected=seen, last=now) is not None
        return
    with pytest.raises(Conflict, match=f"at revision {now}, not {seen}"):
        next_revision(at(now, 300), 300, CHANGE, expected=seen, last=now)


@given(now=st.integers(0, 9), last=st.integers(0, 9))
def test_numbers_are_never_used_twice(now: int, last: int) -> None:
    revision = next_revision(at(now, 300), 400, CHANGE, expected=None, last=last)
    assert revision is not None
    assert revision.revision > max(now, last)


@pytest.mark.parametrize(
    "stored",
    [b"", b"no json", b"[]", b"{}", b'{"value": 5}', b'{"value": "200"}', b'{"revision": 3}'],
)
def test_a_document_that_cannot_be_used_leaves_the_default(stored: bytes) -> None:
    assert read_setting(FACTOR, stored) == Setting(FACTOR, None)


def test_what_was_put_there_by_hand_is_in_force_at_revision_zero() -> None:
    setting = read_setting(FACTOR, b'{"value": 300, "note": "by hand"}')
    assert (setting.value, setting.revision) == (300, 0)


def test_all_settings_are_read_and_unknown_keys_left_alone() -> None:
    stored = {values_key(FACTOR.key): Revision(value=300, revision=1).to_json()}
    stored[values_key("some.other")] = b"1"
    values = {key: each.value for key, each in read_settings(DEFINITIONS, stored).items()}
    assert values == {key: each.default for key, each in DEFINITIONS.items()} | {FACTOR.key: 300}


def test_history_is_newest_first_without_what_cannot_be_read() -> None:
    stored = [Revision(value=100 + n, revision=n).to_json() for n in (2, 10, 1)]
    history = read_history(FACTOR, [*stored, b"{", Revision(value=1, revision=3).to_json()])
    assert [each.revision for each in history] == [10, 2, 1]


@pytest.mark.parametrize("field", ["actor", "reason"])
def test_a_note_has_an_end(field: str) -> None:
    notes = {"actor": "", "reason": "", field: "x" * (LONGEST_NOTE + 1)}
    with pytest.raises(InvalidArgument) as refused:
        Change(**notes, now_unix_ms=0)
    assert refused.value.field == field
