"""What can be set, what is refused and in which words."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.catalog import KvEntry
from mesh.controlplane.tuning import _SETTINGS, read_tuning
from mesh.errors import InvalidArgument, NotFound
from mesh.live_setting import LOG_LEVEL
from mesh.log_level import read_level
from mesh.logs import LEVELS
from services.config.definition import constraint_words, find_definition, make_definitions
from services.config.revision import Revision

DEFINITIONS = make_definitions()
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
near_the_bounds = st.integers(-2, 4000) | st.floats(-1, 4000) | st.sampled_from(["maglev", "ring"])


@pytest.mark.parametrize(
    ("key", "value_json", "words"),
    [
        ("routing.policy", '"random"', 'one of "maglev", "ring_hash", not "random"'),
        ("routing.hash_balance_factor", "99", "an integer from 100 to 1000, not 99"),
        ("routing.hash_balance_factor", "1001", "an integer from 100 to 1000, not 1001"),
        ("routing.hash_balance_factor", "150.5", "an integer from 100 to 1000, not 150.5"),
        ("routing.hash_balance_factor", '"200"', 'an integer from 100 to 1000, not "200"'),
        ("routing.hash_balance_factor", "true", "an integer from 100 to 1000, not true"),
        ("tracing.sample_ratio", "1.5", "a number from 0 to 1, not 1.5"),
        ("tracing.sample_ratio", "true", "a number from 0 to 1, not true"),
        ("tracing.sample_ratio", "NaN", "a number from 0 to 1, not NaN"),
        ("tracing.sample_ratio", "{}", "a number from 0 to 1, not {}"),
    ],
)
def test_a_value_that_is_refused_is_told_the_constraint(key, value_json, words) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(f"{key} must be {words}")) as refused:
        DEFINITIONS[key].read(value_json)
    assert refused.value.field == "value_json"


@pytest.mark.parametrize("value_json", ["", "{", "maglev", '"maglev', "1,2"])
def test_what_is_not_json_is_called_so(value_json: str) -> None:
    with pytest.raises(InvalidArgument, match="the value is not JSON"):
        DEFINITIONS["routing.policy"].read(value_json)


def test_an_absurd_value_makes_no_absurd_message() -> None:
    with pytest.raises(InvalidArgument) as refused:
        DEFINITIONS["routing.policy"].read(json.dumps("x" * 100_000))
    assert len(refused.value.message) < 200


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("routing.polcy", "did you mean routing.policy?"),
        ("tracing.sample", "did you mean tracing.sample_ratio?"),
        ("x", "there are routing.policy, routing.hash_balance_factor"),
    ],
)
def test_an_unknown_key_is_told_what_there_is(key: str, hint: str) -> None:
    with pytest.raises(NotFound, match=re.escape(hint)):
        find_definition(DEFINITIONS, key)


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=str)
def test_a_default_satisfies_its_own_constraint(definition) -> None:
    assert definition.read(json.dumps(definition.default)) == definition.default
    assert constraint_words(definition.schema)


@pytest.mark.parametrize("key", DEFINITIONS)
@given(value=anything | near_the_bounds)
def test_a_value_is_read_back_as_it_was_or_refused(key: str, value: object) -> None:
    definition = DEFINITIONS[key]
    try:
        read = definition.read(json.dumps(value))
    except InvalidArgument:
        return
    assert definition.accepts(read)
    assert definition.read(json.dumps(read)) == read == value


def test_every_process_takes_whatever_log_level_can_be_set() -> None:
    for level in LEVELS:
        assert DEFINITIONS[LOG_LEVEL.key].read(json.dumps(level)) == level
        stored = Revision(value=level, revision=1).to_json()
        assert read_level(KvEntry(stored, 1)) == level


def test_the_control_plane_reads_what_no_process_reads_for_itself() -> None:
    keys = {setting.key for setting in _SETTINGS.values()}
    assert keys == DEFINITIONS.keys() - {LOG_LEVEL.key}


@pytest.mark.parametrize("key", [key for key in DEFINITIONS if key != LOG_LEVEL.key])
@given(value=near_the_bounds)
def test_the_control_plane_takes_whatever_can_be_set(key: str, value: object) -> None:
    try:
        read = DEFINITIONS[key].read(json.dumps(value))
    except InvalidArgument:
        return
    problems: list[str] = []
    stored = Revision(value=read, revision=1).to_json()
    tuning = read_tuning({key: stored}, lambda key, _: problems.append(key))
    assert problems == []
    (field,) = (field for field, setting in _SETTINGS.items() if setting.key == key)
    assert getattr(tuning, field) == read
