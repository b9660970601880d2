"""The gateway's part of a trace: a span per HTTP request, under its caller's, over the node's."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from mesh.telemetry import Telemetry
from tests.integration.gateway_rig import Rig, make_telemetry, open_rig

CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "hello"}]}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def telemetry(spans: InMemorySpanExporter) -> Telemetry:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return make_telemetry(provider)


@pytest_asyncio.fixture
async def rig(telemetry: Telemetry) -> AsyncIterator[Rig]:
    async with open_rig(telemetry=telemetry) as opened:
        yield opened


@pytest_asyncio.fixture
async def http(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{rig.http}") as opened:
        yield opened


async def ended(spans: InMemorySpanExporter, kind: SpanKind) -> ReadableSpan:
    """The span of this kind, which ends a moment after the client has its answer."""
    async with asyncio.timeout(5):
        while not (found := [s for s in spans.get_finished_spans() if s.kind is kind]):
            await asyncio.sleep(0.01)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_is_joined_to_its_caller_and_counted(rig, http, spans, stream: bool) -> None:
    answer = await http.post(
        "/v1/chat/completions", json=CHAT | {"stream": stream}, headers=HEADERS
    )
    assert answer.status_code == 200
    span = await ended(spans, SpanKind.SERVER)
    assert span.name == "POST /v1/chat/completions"
    assert f"{span.context.trace_id:032x}" == TRACE_ID
    assert f"{span.parent.span_id:016x}" == SPAN_ID
    assert span.attributes["gen_ai.operation.name"] == "chat"
    assert span.attributes["gen_ai.request.model"] == "smollm2"
    assert span.attributes["gen_ai.usage.input_tokens"] == 5
    assert span.attributes["gen_ai.usage.output_tokens"] == 12
    assert span.attributes["http.response.status_code"] == 200
    carried = rig.node.metadata[-1]["traceparent"].split("-")
    assert carried[1] == TRACE_ID
    call = await ended(spans, SpanKind.CLIENT)
    assert call.parent.span_id == span.context.span_id
    assert call.attributes["rpc.response.status_code"] == "OK"
    assert call.status.status_code is StatusCode.UNSET
    assert carried[2] == f"{call.context.span_id:016x}"


@pytest.mark.parametrize(
    "traceparent",
    ["", "garbage", f"00-{'0' * 32}-{SPAN_ID}-01", f"00-{TRACE_ID}-{'0' * 16}-01", "00-1-2-01"],
)
async def test_a_malformed_context_begins_a_fresh_trace(rig, http, spans, traceparent: str) -> None:
    headers = {"traceparent": traceparent, "tracestate": "of=nothing"}
    answer = await http.post("/v1/chat/completions", json=CHAT, headers=headers)
    span = await ended(spans, SpanKind.SERVER)
    assert span.parent is None
    assert not span.context.trace_state
    assert answer.headers["x-ringmesh-trace-id"] == f"{span.context.trace_id:032x}"
    assert rig.node.metadata[-1]["traceparent"].split("-")[1] == f"{span.context.trace_id:032x}"


async def test_the_call_for_a_client_that_left_is_cancelled(rig: Rig, http, spans) -> None:
    body = {"model": "smollm2", "prompt": "stall", "stream": True}
    async with http.stream("POST", "/v1/completions", json=body) as answer:
        async with asyncio.timeout(5):
            await rig.node.stalled.wait()
        assert answer.status_code == 200
    call = await ended(spans, SpanKind.CLIENT)
    assert call.attributes["rpc.response.status_code"] == "CANCELLED"


async def test_a_stream_that_fails_marks_its_span(rig: Rig, http, spans) -> None:
    rig.node.deaths = [1, 1, 1]
    await http.post("/v1/chat/completions", json=CHAT | {"stream": True}, headers=HEADERS)
    span = await ended(spans, SpanKind.SERVER)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "UNAVAILABLE"


async def test_requests_are_measured_by_route_and_status(rig: Rig, http, telemetry) -> None:
    for model in ("minilm", "nope"):
        await http.post("/v1/embeddings", json={"model": model, "input": "x"})
    name = "http_server_request_duration_seconds_count"
    for status in ("200", "404"):
        labels = {"route": "/v1/embeddings", "status": status}
        async with asyncio.timeout(5):
            while telemetry.metrics.get_sample_value(name, labels) != 1:
                await asyncio.sleep(0.01)


async def test_a_route_is_named_by_its_template(http, spans) -> None:
    path = f"/v2/models/nope-{secrets.token_hex(4)}/ready"
    assert (await http.get(path)).status_code == 404
    span = await ended(spans, SpanKind.SERVER)
    assert span.name == "GET /v2/models/{model}/ready"
    assert span.attributes["url.path"] == path
    assert span.attributes["error.type"] == "MODEL_NOT_FOUND"
    assert span.status.status_code is StatusCode.UNSET  # the caller's mistake, not a fault
