"""What the control plane is told: by its environment, and by the config service."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.controlplane.bootstrap import build_bootstrap
from mesh.controlplane.topology import Collector, ControlplaneSettings, Endpoint
from mesh.controlplane.tuning import Tuning, read_tuning
from mesh.controlplane.xds.messages import make_message


def read(**values: Any) -> tuple[Tuning, list[str]]:
    problems: list[str] = []
    stored = {
        key.replace("__", "."): json.dumps({"value": value, "revision": 1}).encode()
        for key, value in values.items()
    }
    return read_tuning(stored, lambda key, _: problems.append(key)), problems


def test_stored_values_replace_defaults() -> None:
    tuning, problems = read(
        routing__policy="ring_hash",
        routing__hash_balance_factor=150,
        tracing__sample_ratio=0.25,
        placement__grace_s=5,
        unknown__key=1,
    )
    assert tuning == Tuning("ring_hash", 150, 0.25, 5.0)
    assert problems == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("routing__policy", "random"),
        ("routing__hash_balance_factor", 99),
        ("routing__hash_balance_factor", 150.5),
        ("tracing__sample_ratio", 1.5),
        ("tracing__sample_ratio", "0.5"),
        ("placement__grace_s", None),
    ],
)
def test_a_value_that_cannot_be_used_keeps_its_default(key: str, value: Any) -> None:
    tuning, problems = read(**{key: value})
    assert tuning == Tuning()
    assert problems == [key.replace("__", ".")]


def test_a_document_that_is_none_keeps_the_default() -> None:
    problems: list[str] = []
    tuning = read_tuning({"routing.policy": b"{"}, lambda key, _: problems.append(key))
    assert (tuning, problems) == (Tuning(), ["routing.policy"])


def test_the_environment_names_the_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGMESH_EDGE_PORT", "9999")
    monkeypatch.setenv("RINGMESH_MESH_ADDRESS", "127.0.0.1:9998")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example")
    topology = ControlplaneSettings().topology()
    assert topology.edge == Endpoint("127.0.0.1", 9999)
    assert topology.mesh == Endpoint("127.0.0.1", 9998)
    assert topology.collector == Collector(Endpoint("collector.example", 4317), tls=True)


@pytest.mark.parametrize("url", ["http://[::1]:4317", "[::1]:4317"])
def test_a_collector_may_be_named_with_or_without_a_scheme(url: str) -> None:
    assert Collector.parse(url) == Collector(Endpoint("::1", 4317), tls=False)


def test_the_bootstrap_is_what_envoys_api_says() -> None:
    bootstrap = build_bootstrap("edge-1", "127.0.0.1:9901", "127.0.0.1:18000")
    message = make_message("envoy.config.bootstrap.v3.Bootstrap", bootstrap)
    assert message.node.id == "edge-1"
    assert json.loads(json.dumps(bootstrap)) == bootstrap
