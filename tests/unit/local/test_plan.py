import json
from pathlib import Path
from typing import cast

import pytest

from mesh.catalog import Catalog
from mesh.local.address import Addresses
from mesh.local.child import stop_order
from mesh.local.consul_agent import make_consul_config, read_version
from mesh.local.plan import Plan, make_env, plan_children
from mesh.local.settings import LocalSettings
from mesh.local.toolchain import Tools

NO_CATALOG = cast("Catalog", None)  # probes hold it; none of them runs here

ADDRESSES = Addresses(
    edge="127.0.0.1:8080",
    consul="127.0.0.1:8500",
    envoy_admin="127.0.0.1:9901",
    mesh="127.0.0.1:1",
    controlplane="127.0.0.1:2",
    tracesink="127.0.0.1:3",
    consul_server="127.0.0.1:4",
    consul_serf="127.0.0.1:5",
)


def make_plan(state_dir: Path, **settings: object) -> Plan:
    consul = state_dir / "consul-program"
    consul.write_text("#!/bin/sh\necho Consul v1.8.7\n")
    consul.chmod(0o755)
    chosen = LocalSettings.model_validate(settings)
    tools = Tools(None if chosen.consul_address else consul, Path("/bin/envoy"))
    return Plan(chosen, tools, ADDRESSES, state_dir)


def test_the_front_drains_before_what_it_needs_goes(tmp_path: Path) -> None:
    children = plan_children(make_plan(tmp_path), NO_CATALOG)
    assert stop_order(children) == [
        ["gateway"],
        ["envoy"],
        ["node-1", "node-2"],
        ["config", "registry", "controlplane"],
        ["tracesink"],
        ["consul"],
    ]


def test_every_need_is_a_child(tmp_path: Path) -> None:
    children = plan_children(make_plan(tmp_path), NO_CATALOG)
    names = {child.name for child in children}
    assert all(set(child.after) <= names - {child.name} for child in children)


def test_a_consul_and_a_collector_that_run_already_are_used(tmp_path: Path) -> None:
    plan = make_plan(
        tmp_path, consul_address="http://10.0.0.1:8500", otlp_endpoint="http://jaeger:4317"
    )
    children = plan_children(plan, NO_CATALOG)
    assert plan.settings.consul_address == "10.0.0.1:8500"
    assert {"consul", "tracesink"}.isdisjoint(child.name for child in children)
    assert {child.env["OTEL_EXPORTER_OTLP_ENDPOINT"] for child in children} == {
        "http://jaeger:4317"
    }
    assert not any("consul" in child.after for child in children)


def test_a_child_gets_the_users_environment_but_no_other_process_settings(tmp_path: Path) -> None:
    inherited = {
        "PATH": "/bin",
        "RINGMESH_NODE_ID": "somebody-else",
        "RINGMESH_LISTEN": "0.0.0.0:1",
        "RINGMESH_STORE_URL": "s3://models",
        "CONSUL_HTTP_ADDR": "elsewhere:8500",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://elsewhere:4317",
    }
    assert make_env(make_plan(tmp_path), inherited, edge_port="8080") == {
        "PATH": "/bin",
        "PYTHONUNBUFFERED": "1",
        "CONSUL_HTTP_ADDR": "127.0.0.1:8500",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:3",
        "RINGMESH_STATE_DIR": str(tmp_path),
        "RINGMESH_LOG_LEVEL": "info",
        "RINGMESH_DRAIN_TIMEOUT_S": "10.0",
        "RINGMESH_STORE_URL": "s3://models",
        "RINGMESH_EDGE_PORT": "8080",
    }


def test_as_many_nodes_as_wanted_each_with_its_name(tmp_path: Path) -> None:
    children = plan_children(make_plan(tmp_path, nodes=3), NO_CATALOG)
    nodes = [child.env["RINGMESH_NODE_ID"] for child in children if child.name.startswith("node")]
    assert nodes == ["node-1", "node-2", "node-3"]


def test_stale_registrations_of_a_killed_mesh_are_forgotten_and_its_data_kept(
    tmp_path: Path,
) -> None:
    for name in ("services", "checks", "raft"):
        (tmp_path / "consul" / name).mkdir(parents=True)
    plan_children(make_plan(tmp_path), NO_CATALOG)
    assert [path.name for path in (tmp_path / "consul").iterdir()] == ["raft"]
    assert json.loads((tmp_path / "consul.json").read_text())["ports"]["http"] == 8500


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("Consul v1.8.7\nProtocol 2 spoken by default", (1, 8, 7)),
        ("Consul v1.20.1+ent\nRevision abc", (1, 20, 1)),
        ("something else", (0,)),
    ],
)
def test_consul_says_its_version(output: str, version: tuple[int, ...]) -> None:
    assert read_version(output) == version


def test_a_newer_consul_is_told_of_ports_that_the_older_one_does_not_know(tmp_path: Path) -> None:
    assert "grpc_tls" not in make_consul_config(tmp_path, ADDRESSES, (1, 8, 7))["ports"]
    assert make_consul_config(tmp_path, ADDRESSES, (1, 20, 1))["ports"]["grpc_tls"] == -1
