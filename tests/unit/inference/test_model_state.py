"""The life of a version: which changes there are, and what its status says after each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.models.state import Change, ModelState, ModelStatus, advance, next_state

S, C = ModelState, Change

LIFE = [
    (C.LOAD_BEGAN, S.LOADING),
    (C.LOAD_FAILED, S.UNAVAILABLE),
    (C.LOAD_BEGAN, S.LOADING),
    (C.LOADED, S.READY),
    (C.BROKE, S.UNAVAILABLE),
    (C.LOAD_BEGAN, S.LOADING),
    (C.RECOVERED, S.READY),
    (C.REMOVED, S.DRAINING),
    (C.DRAINED, S.UNLOADED),
    (C.PLACED, S.UNAVAILABLE),
    (C.REMOVED, S.DRAINING),
]


def test_a_whole_life() -> None:
    state = S.UNAVAILABLE
    for change, expected in LIFE:
        state = next_state(state, change)
        assert state is expected


def test_a_version_that_is_loading_may_be_removed() -> None:
    assert next_state(S.LOADING, C.REMOVED) is S.DRAINING


@given(st.sampled_from(S), st.sampled_from(C))
def test_ready_is_reached_by_loading_and_left_by_removal_or_failure(state: S, change: C) -> None:
    try:
        after = next_state(state, change)
    except ValueError:
        return
    ready = (C.LOADED, C.RECOVERED, C.MOVED, C.PAGED_OUT, C.PAGED_IN)
    assert (after is S.READY) == (change in ready)
    if state is S.READY and change not in ready:
        assert after is {C.REMOVED: S.DRAINING, C.BROKE: S.UNAVAILABLE}[change]


@pytest.mark.parametrize(
    ("state", "change"),
    [
        (S.UNAVAILABLE, C.LOADED),
        (S.READY, C.LOADED),
        (S.DRAINING, C.PLACED),
        (S.UNLOADED, C.DRAINED),
    ],
)
def test_impossible_changes_are_refused(state: S, change: C) -> None:
    with pytest.raises(ValueError, match=change.value):
        next_state(state, change)


def test_backend_and_memory_are_known_while_something_is_loaded() -> None:
    loading = advance(ModelStatus("m", 1), C.LOAD_BEGAN)
    ready = advance(loading, C.LOADED, backend="onnxruntime", memory_bytes=7)
    draining = advance(ready, C.REMOVED, "finishing")
    assert (draining.backend, draining.memory_bytes) == ("onnxruntime", 7)
    gone = advance(draining, C.DRAINED, "no longer placed")
    assert (gone.backend, gone.memory_bytes, gone.reason) == ("", 0, "no longer placed")
    assert gone.reference == "m@1"
