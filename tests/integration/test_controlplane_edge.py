"""The edge listener: what enters, what is stripped, and what Envoy itself answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
import uvicorn
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mesh.catalog import Instance
from mesh.ports import free_ports
from mesh.server import serve
from mesh.telemetry import open_telemetry
from tests.integration.controlplane_rig import Rig, eventually, open_caller, open_rig
from tests.integration.echo_node import bindings

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
NOT_RECORDED = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-00f067aa0ba902b7-00"
OWN_TRACE = "b" * 32
SERVER_SPAN = 2


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []

    async def Export(self, request, context):  # noqa: N802
        for resource in request.resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.spans += [
                (names["service.name"], span)
                for scope in resource.scope_spans
                for span in scope.spans
            ]
        return trace_service_pb2.ExportTraceServiceResponse()


@asynccontextmanager
async def open_collector() -> AsyncIterator[tuple[Collector, str]]:
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield collector, f"http://127.0.0.1:{port}"
    await server.stop(0)


@asynccontextmanager
async def open_http() -> AsyncIterator[int]:
    async def echo(request: Request) -> JSONResponse:
        body = await request.body()
        content = {"headers": dict(request.headers), "size": len(body)}
        return JSONResponse(content, headers={"x-ringmesh-trace-id": OWN_TRACE})

    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])
    [port] = free_ports(1)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    yield port
    server.should_exit = True
    await task


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    async with open_collector() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig(
    tmp_path_factory: pytest.TempPathFactory,
    consul_binary: Path,
    envoy_binary: Path,
    collector: tuple[Collector, str],
) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("edge")
    async with open_rig(folder, consul_binary, envoy_binary, otlp=collector[1]) as opened:
        opened.start_controlplane()
        opened.start_envoy()
        await eventually(lambda: opened.stats("listener_manager.workers_started"), bool)
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(rig: Rig) -> AsyncIterator[None]:
    """What stands for the gateway: echoes over gRPC and over HTTP."""
    with open_telemetry("gateway", "test", otlp_endpoint=None) as telemetry:
        async with (
            open_http() as port,
            serve(listen="127.0.0.1:0", services=bindings("gateway"), telemetry=telemetry) as grpc_,
        ):
            meta = {"http_port": str(port)}
            instance = Instance("gateway-1", "gateway", "127.0.0.1", grpc_.port, meta=meta)
            async with rig.catalog.registered(instance):
                await rig.wait_healthy("gateway-http", 1)
                await rig.wait_healthy("gateway-grpc", 1)
                yield
            await rig.wait_healthy("gateway-grpc", 0)


@pytest_asyncio.fixture(loop_scope="module")
async def client(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{rig.edge}") as opened:
        yield opened


async def test_internal_headers_from_outside_do_not_enter(
    rig: Rig, gateway: None, client: httpx.AsyncClient
) -> None:
    sent = {
        "x-ringmesh-model": "a",
        "x-ringmesh-version": "9",
        "x-ringmesh-affinity": "k",
        "x-session-id": "mine",
        "x-envoy-upstream-rq-timeout-ms": "1",
    }
    over_http = (await client.get("/v2", headers=sent)).json()["headers"]
    assert over_http["x-session-id"] == "mine"
    assert not {"x-ringmesh-model", "x-ringmesh-version", "x-ringmesh-affinity"} & over_http.keys()
    assert "x-envoy-upstream-rq-timeout-ms" not in over_http

    async with open_caller(rig.edge) as caller:
        answer = await caller.infer("a", x_ringmesh_version="9", x_ringmesh_affinity="k")
    assert not {"x-ringmesh-model", "x-ringmesh-affinity"} & answer.parameters.keys()
    assert answer.model_version == ""


async def test_an_answer_says_its_trace_id_and_the_trace_arrives_within_seconds(
    gateway: None, client: httpx.AsyncClient, collector: tuple[Collector, str]
) -> None:
    answer = await client.get("/v2", headers={"traceparent": PARENT})
    assert answer.headers["x-ringmesh-trace-id"] == TRACE
    assert TRACE in answer.json()["headers"]["traceparent"]

    async def spans() -> list[Any]:
        found = [(name, span) for name, span in collector[0].spans if span.trace_id.hex() == TRACE]
        assert {name for name, _ in found} <= {"envoy-edge"}
        return sorted((span for _, span in found), key=lambda span: span.kind)

    server, upstream = await eventually(spans, lambda found: len(found) == 2, timeout_s=3)
    assert (server.kind, server.name) == (SERVER_SPAN, "GET /v2")
    assert server.parent_span_id.hex() == PARENT.split("-")[2]
    assert (upstream.parent_span_id, upstream.name) == (server.span_id, "to gateway-http")


async def test_where_envoy_begins_no_trace_the_answer_says_the_one_of_the_gateway(
    gateway: None, client: httpx.AsyncClient
) -> None:
    for traceparent in ("garbage", f"00-{'0' * 32}-00f067aa0ba902b7-01"):
        answer = await client.get("/v2", headers={"traceparent": traceparent})
        assert answer.headers.get_list("x-ringmesh-trace-id") == [OWN_TRACE]
    answer = await client.get("/v2", headers={"traceparent": PARENT})
    assert answer.headers.get_list("x-ringmesh-trace-id") == [TRACE]


async def test_a_trace_that_its_caller_does_not_record_is_not_recorded_here(
    gateway: None, client: httpx.AsyncClient, collector: tuple[Collector, str]
) -> None:
    unrecorded = await client.get("/v2", headers={"traceparent": NOT_RECORDED})
    assert unrecorded.headers["x-ringmesh-trace-id"] == "a" * 32
    marker = await client.get("/v2/marker")
    known = collector[0].spans

    async def arrived() -> bool:
        return any(s.trace_id.hex() == marker.headers["x-ringmesh-trace-id"] for _, s in known)

    await eventually(arrived, bool, timeout_s=3)
    assert not any(span.trace_id.hex() == "a" * 32 for _, span in known)


async def test_envoys_own_answers_over_http_are_json_with_the_trace_id(
    rig: Rig, client: httpx.AsyncClient
) -> None:
    plain = await client.get("/v2", headers={"traceparent": PARENT})
    assert plain.status_code == 503
    assert plain.headers["content-type"] == "application/json"
    assert plain.headers["x-ringmesh-trace-id"] == TRACE
    assert plain.json() == {"error": "no healthy upstream (no_healthy_upstream)"}

    openai = await client.get("/v1/models")
    assert openai.json()["error"]["message"].startswith("no healthy upstream")
    assert len(openai.headers["x-ringmesh-trace-id"]) == 32

    unparsed = await client.get("/v2", headers={"x": "y" * 70_000})
    assert unparsed.status_code == 431
    assert "error" in unparsed.json()

    async def logged() -> list[dict[str, Any]]:
        lines = [line for line in rig.log("envoy").splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines]

    [entry, *_] = await eventually(
        logged, lambda found: any(each["status"] == 503 for each in found)
    )
    assert {"trace_id", "path", "duration_ms", "cluster", "flags"} <= entry.keys()


async def test_envoys_own_answers_over_grpc_are_grpc_statuses(rig: Rig) -> None:
    async with open_caller(rig.edge) as caller:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.infer("a")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "no healthy upstream"
    assert "x-ringmesh-trace-id" in dict(caught.value.trailing_metadata() or ())


async def test_grpc_that_nobody_serves_is_unimplemented(rig: Rig, gateway: None) -> None:
    async with open_caller(rig.edge) as caller:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.channel.unary_unary("/no.such/Thing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_both_http_versions_and_large_bodies_pass_the_one_port(
    rig: Rig, gateway: None, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/v2", content=b"x" * 20_000_000)
    assert answer.json()["size"] == 20_000_000
    curl = await asyncio.create_subprocess_exec(
        "curl", "-s", "--http2-prior-knowledge", f"http://{rig.edge}/v2", stdout=-1
    )
    out, _ = await curl.communicate()
    assert json.loads(out)["headers"]["host"] == rig.edge
