"""The Consul and the trace sink of a local mesh, as real processes under the supervisor."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import StatusCode

from mesh.catalog import Catalog
from mesh.local.address import PortTaken, choose_addresses
from mesh.local.plan import Plan, plan_children
from mesh.local.settings import LocalSettings
from mesh.local.supervisor import supervise
from mesh.local.toolchain import Tools, find_consul, find_envoy
from mesh.local.trace_store import TraceNotFound, TraceStore
from mesh.local.trace_tree import TraceTree


@pytest.fixture
def settings(tmp_path: Path) -> LocalSettings:
    return LocalSettings(
        state_dir=tmp_path,
        edge_port=0,
        consul_port=0,
        envoy_admin_port=0,
        consul_address=None,
        otlp_endpoint=None,
    )


def make_plan(settings: LocalSettings) -> Plan:
    tools = Tools(find_consul(), find_envoy())
    return Plan(settings, tools, choose_addresses(settings), settings.state_dir)


def accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


async def await_condition(holds: Callable[[], object], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.05)


async def run_consul(settings: LocalSettings, key: str, value: bytes | None) -> bytes | None:
    """One life of Consul on ports of its own; writes the key, or reads it."""
    plan = make_plan(settings)
    async with Catalog.open(plan.addresses.consul) as catalog:
        children = [child for child in plan_children(plan, catalog) if child.name == "consul"]
        async with supervise(children, settings.state_dir / "logs", lambda _: None) as supervision:
            await supervision.wait_ready(timeout_s=15)
            if value is not None:
                await catalog.put(key, value)
            entry = await catalog.get(key)
    assert not accepts(plan.addresses.consul)
    assert not accepts(plan.addresses.consul_server)
    return None if entry is None else entry.value


async def test_consul_keeps_its_data_over_a_restart_on_other_ports(settings: LocalSettings) -> None:
    assert await run_consul(settings, "ringmesh/test", b"kept") == b"kept"
    assert await run_consul(settings, "ringmesh/test", None) == b"kept"


async def test_spans_that_are_sent_can_be_read(settings: LocalSettings) -> None:
    plan = make_plan(settings)
    async with Catalog.open(plan.addresses.consul) as catalog:
        children = [child for child in plan_children(plan, catalog) if child.name == "tracesink"]
        async with supervise(children, settings.state_dir / "logs", lambda _: None) as supervision:
            await supervision.wait_ready(timeout_s=15)
            trace_id = await asyncio.to_thread(send_spans, plan.otlp_endpoint)
            store = TraceStore(settings.state_dir / "traces")
            tree = await find_trace(store, trace_id)
    (root,) = tree.roots
    (child,) = root.children
    assert (root.span.name, root.span.service) == ("outer", "tester")
    assert (child.span.name, child.span.error) == ("inner", "it broke")
    assert child.span.attributes["ringmesh.model"] == "minilm"
    assert child.span.start_ns >= root.span.start_ns


def send_spans(endpoint: str) -> str:
    provider = TracerProvider(
        resource=Resource.create({"service.name": "tester"}), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("outer") as outer:
        with tracer.start_as_current_span("inner") as inner:
            inner.set_attribute("ringmesh.model", "minilm")
            inner.set_status(StatusCode.ERROR, "it broke")
        trace_id = outer.get_span_context().trace_id
    provider.shutdown()
    return f"{trace_id:032x}"


async def find_trace(store: TraceStore, trace_id: str) -> TraceTree:
    found: list[TraceTree] = []

    def look() -> bool:
        try:
            found[:] = [store.find(trace_id[:10])]
        except TraceNotFound:
            return False
        return found[0].span_count == 2

    await await_condition(look)
    return found[0]


def test_a_taken_port_is_named_with_the_variable_that_moves_it(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = LocalSettings(
            state_dir=tmp_path, edge_port=port, consul_port=0, envoy_admin_port=0
        )
        with pytest.raises(PortTaken, match=rf"^Port {port} is taken.*RINGMESH_EDGE_PORT"):
            choose_addresses(settings)
