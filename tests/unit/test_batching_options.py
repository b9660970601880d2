"""What a manifest may say of batching: what is refused, and what a request may change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mesh.batching_options import BatchingOptions, QueuePolicy

policies = st.builds(
    QueuePolicy,
    max_queue_rows=st.integers(0, 1000),
    default_timeout_ms=st.floats(0, 1e6),
    allow_timeout_override=st.booleans(),
    timeout_action=st.sampled_from(["REJECT", "DELAY"]),
)


@st.composite
def options(draw: st.DrawFn) -> BatchingOptions:
    size = draw(st.integers(1, 4096))
    levels = draw(st.integers(0, 8))
    known = st.integers(1, levels) if levels else st.nothing()
    return BatchingOptions(
        max_batch_size=size,
        max_queue_delay_ms=draw(st.floats(0, 1000)),
        preferred_batch_sizes=tuple(sorted(draw(st.sets(st.integers(1, size), max_size=4)))),
        priority_levels=levels,
        default_priority_level=draw(st.integers(1, levels)) if levels else 0,
        default_queue_policy=draw(policies),
        priority_queue_policy=draw(st.dictionaries(known, policies)),
    )


@given(options())
def test_options_survive_their_own_json(given_options: BatchingOptions) -> None:
    text = given_options.model_dump_json()
    assert BatchingOptions.model_validate_json(text) == given_options


@given(options())
def test_every_level_has_a_policy(given_options: BatchingOptions) -> None:
    expected = range(1, given_options.priority_levels + 1) if given_options.priority_levels else [0]
    assert list(given_options.policies) == list(expected)
    assert given_options.default_priority_level in given_options.policies


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"preferred_batch_sizes": [8, 4]}', "must ascend"),
        ('{"preferred_batch_sizes": [4, 4]}', "must ascend"),
        ('{"preferred_batch_sizes": [64]}', "must not exceed max_batch_size"),
        ('{"preferred_batch_sizes": [0]}', "greater than or equal to 1"),
        ('{"preferred_batch_sizes": ["8"]}', "valid integer"),
        ('{"priority_levels": 2}', "default_priority_level must be 1 to 2"),
        ('{"default_priority_level": 1}', "must be 0, without levels"),
        ('{"priority_queue_policy": {"1": {}}}', "names level 1, which is not one"),
        ('{"default_queue_policy": {"timeout_action": "DROP"}}', "'REJECT' or 'DELAY'"),
        ('{"max_batch": 3}', "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BatchingOptions.model_validate_json(text)


@pytest.mark.parametrize(
    ("policy", "requested_s", "expected_s"),
    [
        (QueuePolicy(), None, None),
        (QueuePolicy(), 3.0, 3.0),
        (QueuePolicy(default_timeout_ms=2000), None, 2.0),
        (QueuePolicy(default_timeout_ms=2000), 1.0, 1.0),
        (QueuePolicy(default_timeout_ms=2000), 3.0, 2.0),
        (QueuePolicy(default_timeout_ms=2000, allow_timeout_override=False), 1.0, 2.0),
        (QueuePolicy(allow_timeout_override=False), 1.0, None),
    ],
)
def test_a_request_may_shorten_its_wait_and_never_extend_it(
    policy: QueuePolicy, requested_s: float | None, expected_s: float | None
) -> None:
    assert policy.timeout_s(requested_s) == expected_s
