"""Each way in which a snapshot may not hang together is found and named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from mesh.controlplane.consistency import find_problems
from mesh.controlplane.snapshot import ResourceType, Snapshot, make_snapshot
from mesh.controlplane.xds.messages import BadSpec

CLUSTER = {"name": "a", "type": "EDS"}
ENDPOINTS = {"cluster_name": "a", "endpoints": []}


def host(*routes: Any, domains: Iterable[str] = ("*",), name: str = "h") -> Any:
    return {"name": name, "domains": list(domains), "routes": list(routes)}


def to(**route: Any) -> Any:
    return {"match": {"prefix": "/"}, "route": route}


def listener(name: str, port: int) -> Any:
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
    }


def snapshot(
    clusters: Iterable[Any] = (CLUSTER,),
    endpoints: Iterable[Any] = (ENDPOINTS,),
    listeners: Iterable[Any] = (),
    hosts: Iterable[Any] = (),
) -> Snapshot:
    return make_snapshot(
        {
            ResourceType.CLUSTER: clusters,
            ResourceType.ENDPOINT: endpoints,
            ResourceType.LISTENER: listeners,
            ResourceType.ROUTE: [{"name": "r", "virtual_hosts": list(hosts)}],
        }
    )


def test_a_sound_snapshot_has_no_problem() -> None:
    assert find_problems(snapshot(hosts=[host(to(cluster="a"))])) == ()


def test_static_clusters_count() -> None:
    assert find_problems(snapshot(hosts=[host(to(cluster="xds"))]), ["xds"]) == ()


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (snapshot(hosts=[host(to(cluster="b"))]), "route r names cluster b, which is missing"),
        (
            snapshot(
                hosts=[host(to(weighted_clusters={"clusters": [{"name": "b", "weight": 1}]}))]
            ),
            "route r names cluster b, which is missing",
        ),
        (
            snapshot(
                hosts=[host(to(weighted_clusters={"clusters": [{"name": "a", "weight": 0}]}))]
            ),
            "route r has a weight that is not positive",
        ),
        (snapshot(endpoints=[]), "cluster a has no endpoints resource"),
        (snapshot(clusters=[]), "endpoints a belong to no cluster"),
        (
            snapshot(hosts=[host(), host(name="other")]),
            "route r has two virtual hosts for domain *",
        ),
        (
            snapshot(listeners=[listener("one", 80), listener("two", 80)]),
            "listeners one and two share 127.0.0.1:80",
        ),
    ],
)
def test_a_problem_is_named(broken: Snapshot, problem: str) -> None:
    assert find_problems(broken) == (problem,)


def test_a_name_may_not_come_twice() -> None:
    with pytest.raises(ValueError, match="two clusters are called a"):
        snapshot(clusters=[CLUSTER, CLUSTER])


def test_what_envoys_api_does_not_know_is_refused_by_name() -> None:
    with pytest.raises(BadSpec, match="conect_timeout"):
        snapshot(clusters=[{**CLUSTER, "conect_timeout": "1s"}])
