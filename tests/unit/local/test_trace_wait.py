"""What is missing from a trace, and how long one waits for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh.local.trace_store import TraceNotFound
from mesh.local.trace_tree import EDGE, SpanRecord, TraceTree, build_tree
from mesh.local.trace_wait import LOOK_INTERVAL_S, SETTLE_S, find_settled

ENDED_S = 100.0


def span(
    span_id: str, parent_id: str, service: str, kind: str = "server", error: str | None = None
) -> SpanRecord:
    end_ns = int(ENDED_S * 1e9)
    return SpanRecord(
        "t", span_id, parent_id, service, "Infer", kind, end_ns - 9, end_ns, error, {}
    )


ROOT = span("a", "outside", EDGE)
CALL = span("b", "a", EDGE, "client")
SERVED = span("c", "b", "gateway")
WHOLE = build_tree([ROOT, CALL, SERVED])
NO_NODE = build_tree([ROOT, CALL])
NO_EDGE = build_tree([SERVED])


@pytest.mark.parametrize(
    ("tree", "missing"),
    [
        (WHOLE, ()),
        (NO_NODE, ("what envoy-edge Infer reached",)),
        (NO_EDGE, ("what called gateway Infer",)),
        (build_tree([ROOT, SERVED]), ("what called gateway Infer",)),
        (build_tree([span("x", "", "gateway")]), ()),
        (build_tree([ROOT, span("b", "a", EDGE, "client", "connection refused")]), ()),
    ],
)
def test_what_is_missing_follows_from_what_is_there(tree: TraceTree, missing: tuple) -> None:
    assert tree.missing == missing


class Clock:
    def __init__(self, now_s: float = ENDED_S) -> None:
        self.now_s = now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def find_in(found: list[TraceTree | None]) -> Callable[[], TraceTree]:
    """One look after the other; the last one for ever."""

    def find() -> TraceTree:
        tree = found.pop(0) if len(found) > 1 else found[0]
        if tree is None:
            raise TraceNotFound("none yet")
        return tree

    return find


def settle(clock: Clock, *found: TraceTree | None) -> TraceTree:
    return find_settled(find_in(list(found)), now_s=lambda: clock.now_s, sleep=clock.sleep)


def test_late_spans_are_waited_for_and_no_longer() -> None:
    clock = Clock()
    assert settle(clock, None, NO_EDGE, NO_NODE, WHOLE) is WHOLE
    assert clock.now_s == pytest.approx(ENDED_S + 3 * LOOK_INTERVAL_S)


def test_the_wait_is_bounded() -> None:
    clock = Clock()
    assert settle(clock, NO_NODE) is NO_NODE
    assert SETTLE_S <= clock.now_s - ENDED_S < SETTLE_S + 1
    with pytest.raises(TraceNotFound):
        settle(clock, None)


def test_an_old_trace_is_shown_as_it_is() -> None:
    clock = Clock(ENDED_S + SETTLE_S + 1)
    assert settle(clock, NO_NODE) is NO_NODE
    assert clock.now_s == ENDED_S + SETTLE_S + 1
