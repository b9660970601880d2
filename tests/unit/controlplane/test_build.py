"""From a world to a snapshot: what is in it, and that it hangs together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.catalog import Instance
from mesh.controlplane.build import World, build
from mesh.controlplane.consistency import find_problems
from mesh.controlplane.resources.route import CONFIG_PATHS
from mesh.controlplane.snapshot import ResourceType, Snapshot
from mesh.controlplane.tuning import Tuning
from tests.unit.controlplane.documents import TOPOLOGY, deployment, world


def node(name: str, *tags: str, address: str = "127.0.0.1", port: int = 9000) -> Instance:
    return Instance(f"inference-{name}", "inference", address, port, frozenset(tags))


def spec(snapshot: Snapshot, kind: ResourceType, name: str) -> Any:
    return snapshot.of(kind)[name].spec


def hosts(snapshot: Snapshot, cluster: str) -> list[str]:
    found = spec(snapshot, ResourceType.ENDPOINT, cluster)["endpoints"]
    return [
        each["metadata"]["filter_metadata"]["envoy.lb"]["hash_key"]
        for locality in found
        for each in locality["lb_endpoints"]
    ]


def routes(snapshot: Snapshot) -> dict[str, list[Any]]:
    [host] = spec(snapshot, ResourceType.ROUTE, "mesh")["virtual_hosts"]
    found: dict[str, list[Any]] = {}
    for route in host["routes"]:
        found.setdefault(route["name"], []).append(route)
    return found


def shares(route: Any) -> dict[str, tuple[int, str]]:
    return {
        each["name"]: (each["weight"], each["request_headers_to_add"][0]["header"]["value"])
        for each in route["route"]["weighted_clusters"]["clusters"]
    }


def test_a_version_is_a_cluster_of_the_nodes_that_carry_its_tag() -> None:
    nodes = (node("b", "m@1", "m@2"), node("a", "m@1"), node("c", "m@11"))
    snapshot = build(world(instances={"inference": nodes}), TOPOLOGY)
    assert hosts(snapshot, "m@1") == ["inference-a", "inference-b"]
    assert hosts(snapshot, "m@2") == ["inference-b"]
    assert hosts(snapshot, "m@3") == []


def test_an_instance_that_envoy_could_not_reach_is_left_out() -> None:
    nodes = (
        node("named", "m@1", address="node.example"),
        node("portless", "m@1", port=0),
        node("six", "m@1", address="::1"),
    )
    snapshot = build(world(instances={"inference": nodes}), TOPOLOGY)
    assert hosts(snapshot, "m@1") == ["inference-six"]


def test_the_gateway_has_a_cluster_per_protocol() -> None:
    with_http = Instance("gateway-1", "gateway", "127.0.0.1", 5, meta={"http_port": "6"})
    without = Instance("gateway-2", "gateway", "127.0.0.1", 7)
    snapshot = build(world(instances={"gateway": (with_http, without)}), TOPOLOGY)
    assert hosts(snapshot, "gateway-grpc") == ["gateway-1", "gateway-2"]
    assert hosts(snapshot, "gateway-http") == ["gateway-1"]


def test_references_lead_to_versions_and_say_which() -> None:
    found = routes(build(world(), TOPOLOGY))
    assert shares(found["m"][0]) == {"m@1": (90, "1"), "m@2": (10, "2")}
    assert shares(found["m@2"][0]) == {"m@2": (1, "2")}
    assert shares(found["m@champion"][0]) == {"m@1": (1, "1")}
    assert [*found] == ["m", "m@1", "m@2", "m@3", "m@champion", CONFIG_PATHS, "unknown model"]


def test_only_questions_are_given_up_and_asked_elsewhere() -> None:
    for route in routes(build(world(), TOPOLOGY))["m"]:
        limited = "per_try_timeout" in route["route"]["retry_policy"]
        assert limited == (route["match"].get("prefix") == "/")
        assert route["route"]["timeout"] == "0s"


def test_without_a_collector_nothing_is_traced() -> None:
    snapshot = build(world(), replace(TOPOLOGY, collector=None))
    assert "otlp" not in snapshot.of(ResourceType.CLUSTER)
    assert "tracing" not in str(spec(snapshot, ResourceType.LISTENER, "edge"))
    assert not find_problems(snapshot)


def test_tuning_changes_only_what_it_is_about() -> None:
    before = build(world(), TOPOLOGY)
    after = build(world(tuning=Tuning(hash_balance_factor=150)), TOPOLOGY)
    changed = {
        name
        for kind in ResourceType
        for name, resource in after.of(kind).items()
        if resource.version != before.of(kind)[name].version
    }
    assert changed == {"m@1", "m@2", "m@3"}


NAMES = st.sampled_from(["a", "b", "c"])
WORLDS = st.builds(
    lambda models, nodes: World(
        instances={"inference": tuple(node(name, *tags) for name, tags in nodes.items())},
        deployments={name: deployment(name, shares_) for name, shares_ in models.items()},
    ),
    st.dictionaries(
        NAMES, st.dictionaries(st.integers(1, 3), st.integers(1, 9), min_size=1), max_size=3
    ),
    st.dictionaries(NAMES, st.sets(st.sampled_from(["a@1", "b@2", "z@1"])), max_size=3),
)


@settings(max_examples=40, deadline=None)
@given(WORLDS)
def test_every_world_becomes_a_consistent_snapshot(some: World) -> None:
    assert find_problems(build(some, TOPOLOGY)) == ()


@settings(max_examples=40, deadline=None)
@given(WORLDS, WORLDS)
def test_versions_come_from_content_alone(some: World, other: World) -> None:
    fresh = build(some, TOPOLOGY)
    reused = build(some, TOPOLOGY, previous=build(other, TOPOLOGY))
    assert fresh.version == reused.version
    assert (fresh.version == build(other, TOPOLOGY).version) == (
        fresh.resources == build(other, TOPOLOGY).resources
    )
