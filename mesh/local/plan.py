"""What a mesh on one machine consists of: each child's command line, environment and probe.

Nothing is started here. All children but Consul find each other through Consul, so they wait for
its HTTP interface alone and start together.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.capacity import memory_bytes
from mesh.catalog import Catalog
from mesh.controlplane.bootstrap import build_bootstrap
from mesh.local.address import Addresses
from mesh.local.child import Child, Stage
from mesh.local.consul_agent import prepare_consul
from mesh.local.probe import Probe, catalog_probe, grpc_probe, http_probe
from mesh.local.settings import LocalSettings
from mesh.local.toolchain import Tools

OF_THIS_MESH = frozenset(
    {
        "CONSUL_HTTP_ADDR",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "RINGMESH_CONSUL_ADDRESS",
        "RINGMESH_CONSUL_PORT",
        "RINGMESH_CONTROLPLANE_ID",
        "RINGMESH_CONTROLPLANE_LISTEN",
        "RINGMESH_DEMO",
        "RINGMESH_EDGE",
        "RINGMESH_EDGE_ADDRESS",
        "RINGMESH_EDGE_PORT",
        "RINGMESH_ENVOY_ADMIN_PORT",
        "RINGMESH_HTTP_LISTEN",
        "RINGMESH_LISTEN",
        "RINGMESH_MESH_ADDRESS",
        "RINGMESH_NODES",
        "RINGMESH_NODE_ID",
        "RINGMESH_START_TIMEOUT_S",
    }
)
"""What says who a process is and where: decided here for each child, never inherited. Everything
else that the user sets (limits, stores, threads) is for the services and handed on."""

_STOP_MARGIN_S = 3.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A mesh that could be started."""

    settings: LocalSettings
    tools: Tools
    addresses: Addresses
    state_dir: Path
    """Absolute: the children may run elsewhere."""

    @property
    def otlp_endpoint(self) -> str:
        """Where all spans go."""
        return self.settings.otlp_endpoint or f"http://{self.addresses.tracesink}"

    @property
    def traces_dir(self) -> Path | None:
        """Where the trace sink of our own writes, if there is one."""
        return None if self.settings.otlp_endpoint else self.state_dir / "traces"

    def node_ids(self) -> list[str]:
        """The inference nodes' names."""
        return [f"node-{number}" for number in range(1, self.settings.nodes + 1)]


def make_env(plan: Plan, inherited: Mapping[str, str], **own: str) -> dict[str, str]:
    """A child's environment: the user's, but with no setting of another process's in it."""
    kept = {key: value for key, value in inherited.items() if key not in OF_THIS_MESH}
    return {
        **kept,
        "RINGMESH_STATE_DIR": str(plan.state_dir),
        "RINGMESH_LOG_LEVEL": plan.settings.log_level,
        "RINGMESH_DRAIN_TIMEOUT_S": str(plan.settings.drain_timeout_s),
        "CONSUL_HTTP_ADDR": plan.addresses.consul,
        "OTEL_EXPORTER_OTLP_ENDPOINT": plan.otlp_endpoint,
        "PYTHONUNBUFFERED": "1",
        **{f"RINGMESH_{name.upper()}": value for name, value in own.items()},
    }


def plan_children(plan: Plan, catalog: Catalog) -> list[Child]:
    """All children; writes the configuration files of Consul and Envoy."""
    own_tracesink = plan.settings.otlp_endpoint is None
    return [
        *([] if plan.tools.consul is None else [_consul(plan, plan.tools.consul)]),
        *([_tracesink(plan)] if own_tracesink else []),
        _service(
            plan, "config", "services.config", Stage.CONTROL, catalog_probe(catalog, "config")
        ),
        _service(
            plan, "registry", "services.registry", Stage.CONTROL, catalog_probe(catalog, "registry")
        ),
        _controlplane(plan),
        *(_node(plan, node_id, catalog) for node_id in plan.node_ids()),
        _envoy(plan),
        _service(
            plan,
            "gateway",
            "services.gateway",
            Stage.FRONT,
            catalog_probe(catalog, "gateway"),
            mesh_address=plan.addresses.mesh,
        ),
    ]


def _consul(plan: Plan, binary: Path) -> Child:
    return Child(
        name="consul",
        argv=prepare_consul(binary, plan.state_dir, plan.addresses),
        env=make_env(plan, os.environ),
        stage=Stage.DISCOVERY,
        probe=http_probe(f"http://{plan.addresses.consul}/v1/agent/self"),
    )


def _tracesink(plan: Plan) -> Child:
    return Child(
        name="tracesink",
        argv=(sys.executable, "-m", "mesh.local.tracesink"),
        env=make_env(plan, os.environ, listen=plan.addresses.tracesink),
        stage=Stage.TRACING,
        probe=grpc_probe(plan.addresses.tracesink),
    )


def _controlplane(plan: Plan) -> Child:
    return _service(
        plan,
        "controlplane",
        "mesh.controlplane",
        Stage.CONTROL,
        grpc_probe(plan.addresses.controlplane),
        controlplane_listen=plan.addresses.controlplane,
        edge_port=plan.addresses.edge.rpartition(":")[2],
        mesh_address=plan.addresses.mesh,
    )


def _node(plan: Plan, node_id: str, catalog: Catalog) -> Child:
    instance_id = f"inference-{node_id}"
    probe = catalog_probe(catalog, "inference", lambda instance: instance.id == instance_id)
    # Nodes that compute on each other's cores are a quarter slower than on their share of them.
    share = max(1, len(os.sched_getaffinity(0)) // plan.settings.nodes)
    threads = os.environ.get("RINGMESH_ENGINE_THREADS", str(share))
    memory = str(memory_bytes() * 4 // 5 // plan.settings.nodes)
    return _service(
        plan,
        node_id,
        "services.inference",
        Stage.NODE,
        probe,
        node_id=node_id,
        engine_threads=threads,
        memory_budget_bytes=os.environ.get("RINGMESH_MEMORY_BUDGET_BYTES", memory),
    )


def _envoy(plan: Plan) -> Child:
    admin, controlplane = plan.addresses.envoy_admin, plan.addresses.controlplane
    bootstrap = plan.state_dir / "envoy.json"
    bootstrap.write_text(json.dumps(build_bootstrap("local", admin, controlplane), indent=2))
    return Child(
        name="envoy",
        argv=(
            str(plan.tools.envoy),
            *("--config-path", str(bootstrap)),
            *("--concurrency", "1"),
            *("--log-level", "warning"),
            "--disable-hot-restart",
        ),
        env=make_env(plan, os.environ),
        stage=Stage.PROXY,
        after=("controlplane",),  # else its first attempts fail, and it backs off
        probe=http_probe(f"http://{admin}/ready"),
    )


def _service(plan: Plan, name: str, module: str, stage: Stage, probe: Probe, **own: str) -> Child:
    return Child(
        name=name,
        argv=(sys.executable, "-m", module),
        env=make_env(plan, os.environ, **own),
        stage=stage,
        probe=probe,
        after=() if plan.tools.consul is None else ("consul",),
        stop_timeout_s=plan.settings.drain_timeout_s + _STOP_MARGIN_S,
    )
