"""What the control plane takes for known, and when."""

from __future__ import annotations

from mesh.catalog import Instance, KvEntry
from mesh.controlplane.build import SERVICES
from mesh.controlplane.leader import read_nodes, read_placements
from mesh.controlplane.observe import Observation
from mesh.controlplane.placement import Node
from mesh.controlplane.tuning import Tuning
from mesh.deployment import (
    COUNTS_PREFIX,
    DEPLOYMENTS_PREFIX,
    PLACEMENTS_PREFIX,
    Count,
    Placement,
)
from mesh.live_setting import SETTINGS_PREFIX
from tests.unit.controlplane.documents import deployment


def entries(**values: bytes) -> dict[str, KvEntry]:
    return {DEPLOYMENTS_PREFIX + key: KvEntry(value, 1) for key, value in values.items()}


def complete() -> Observation:
    seen = Observation()
    for service in SERVICES:
        seen.take_instances(service, ())
    seen.take_deployments({})
    seen.take_settings({})
    seen.take_counts({})
    return seen


def test_nothing_is_known_until_every_source_has_answered() -> None:
    seen = Observation()
    for service in SERVICES:
        seen.take_instances(service, ())
        assert seen.world is None
    seen.take_deployments({})
    assert seen.world is None
    seen.take_settings({})
    assert seen.world is None
    seen.take_counts({})
    assert seen.world is not None


def test_counts_are_read_by_model_and_version() -> None:
    seen, count = complete(), Count(digest="0" * 64, needs_bytes=7)
    found = {"m/1": count.to_json(), "m/x": count.to_json(), "m/2": b"{", "odd": b""}
    seen.take_counts({COUNTS_PREFIX + key: KvEntry(value, 1) for key, value in found.items()})
    assert seen.world is not None
    assert seen.world.counts == {("m", 1): count}


def test_a_deployment_that_cannot_be_read_keeps_its_last_good_form() -> None:
    seen = complete()
    good = deployment("m", {1: 1})
    seen.take_deployments(entries(m=good.to_json()))
    seen.take_deployments(entries(m=b"{", n=b"{", o=good.to_json()))
    assert seen.world is not None
    assert seen.world.deployments == {"m": good}
    seen.take_deployments({})
    assert seen.world.deployments == {}


def test_settings_are_read_without_their_prefix() -> None:
    seen = complete()
    stored = KvEntry(b'{"value": 300, "revision": 2}', 7)
    seen.take_settings({f"{SETTINGS_PREFIX}routing.hash_balance_factor": stored})
    assert seen.world is not None
    assert seen.world.tuning == Tuning(hash_balance_factor=300)


def test_a_node_is_known_by_what_its_instance_says() -> None:
    meta = {"node": "one", "formats": "gguf, identity,unheard-of"}
    tags = frozenset({"m@1", "other tag", "m@champion"})
    plain = Instance("inference-two", "inference", "127.0.0.1", 2)
    assert read_nodes([Instance("i", "inference", "127.0.0.1", 1, tags, meta), plain]) == [
        Node("one", frozenset({"gguf", "identity"}), frozenset({("m", 1)})),
        Node("inference-two"),
    ]


def test_a_placement_that_cannot_be_read_counts_as_nothing() -> None:
    good = Placement(node="a", assignments=())
    stored = {
        f"{PLACEMENTS_PREFIX}a": KvEntry(good.to_json(), 1),
        f"{PLACEMENTS_PREFIX}b": KvEntry(b"?", 1),
    }
    assert read_placements(stored) == {"a": good, "b": Placement(node="b", assignments=())}
