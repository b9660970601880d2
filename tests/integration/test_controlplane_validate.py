"""Every resource that the control plane can build, judged by Envoy itself without a network."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mesh.controlplane.bootstrap import build_bootstrap
from mesh.controlplane.build import World, build
from mesh.controlplane.snapshot import ResourceType, Snapshot
from mesh.controlplane.topology import Collector, Endpoint, Topology
from mesh.controlplane.tuning import Tuning
from tests.unit.controlplane.documents import deployment

TOPOLOGY = Topology(Endpoint("127.0.0.1", 8080), Endpoint("127.0.0.1", 8081), None)
WORLD = World(deployments={"m": deployment("m", {1: 90, 2: 10}, {"champion": 1})})


@pytest.mark.parametrize("policy", ["maglev", "ring_hash"])
@pytest.mark.parametrize("collector", [None, "http://127.0.0.1:4317", "https://collector.example"])
def test_envoy_accepts_it_without_a_warning(
    tmp_path: Path, envoy_binary: Path, policy: Any, collector: str | None
) -> None:
    sink = None if collector is None else Collector.parse(collector)
    world = replace(WORLD, tuning=Tuning(policy=policy, sample_ratio=0.1))
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(as_static(build(world, replace(TOPOLOGY, collector=sink)))))
    checked = subprocess.run(
        [envoy_binary, "--mode", "validate", "--log-level", "warn", "--config-path", config],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert "[warn" not in checked.stderr
    assert "deprecated" not in checked.stderr


def as_static(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as one file: routes inside their listeners."""
    config = build_bootstrap("test", "127.0.0.1:9901", "127.0.0.1:18000")
    static = config["static_resources"]
    static["clusters"] += [each.spec for each in snapshot.of(ResourceType.CLUSTER).values()]
    listeners = snapshot.of(ResourceType.LISTENER).values()
    static["listeners"] = [_with_routes(each.spec, snapshot) for each in listeners]
    return config


def _with_routes(listener: Mapping[str, Any], snapshot: Snapshot) -> Mapping[str, Any]:
    [chain] = listener["filter_chains"]
    [manager] = chain["filters"]
    settings = dict(manager["typed_config"])
    name = settings.pop("rds")["route_config_name"]
    settings["route_config"] = snapshot.of(ResourceType.ROUTE)[name].spec
    return {**listener, "filter_chains": [{"filters": [{**manager, "typed_config": settings}]}]}
