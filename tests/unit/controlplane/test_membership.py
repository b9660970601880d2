"""Who counts as a node, and for how long."""

from __future__ import annotations

from mesh.controlplane.membership import Membership
from mesh.controlplane.placement import Node

GRACE_S = 30.0
A = Node("a", ready=frozenset({("m", 1)}))
B = Node("b")


def ids(membership: Membership, now_s: float) -> list[str]:
    return [node.id for node in membership.members(now_s, GRACE_S)]


def test_a_vanished_node_counts_until_its_grace_has_passed() -> None:
    seen = Membership().observe([A, B], 0).observe([B], 10)
    assert ids(seen, 39.9) == ["a", "b"]
    assert seen.next_change_s(10, GRACE_S) == 40
    assert ids(seen, 40) == ["b"]
    assert seen.next_change_s(40, GRACE_S) is None


def test_a_vanished_node_serves_nothing() -> None:
    [a] = Membership().observe([A], 0).observe([], 10).members(11, GRACE_S)
    assert a == Node("a")


def test_a_node_that_returns_begins_anew() -> None:
    seen = Membership().observe([A], 0).observe([], 10).observe([A], 20).observe([], 50)
    assert ids(seen, 79) == ["a"]
    assert ids(seen, 80) == []


def test_the_time_of_vanishing_is_the_first_time_it_was_missed() -> None:
    seen = Membership().observe([A], 0).observe([], 10).observe([], 30)
    assert ids(seen, 40) == []


def test_a_new_leader_gives_nodes_that_it_never_saw_the_same_grace() -> None:
    seen = Membership().observe([B], 5).remember(["a", "b"], 5).observe([B], 20)
    seen = seen.remember(["a"], 20)
    assert ids(seen, 34) == ["a", "b"]
    assert ids(seen, 35) == ["b"]
