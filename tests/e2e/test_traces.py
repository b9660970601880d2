"""One trace per request, one tree, right parents, for gRPC, REST and streams."""

import json
import secrets
from typing import Any

import grpc
import httpx
import pytest
import tritonclient.grpc as triton

from mesh.pb import inference_pb2, inference_pb2_grpc
from tests.e2e.harness import Mesh, wait_for

SETTLE_S = 20
CHAT = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 8,
    "temperature": 0,
}


class Context:
    """A client's W3C trace context."""

    def __init__(self) -> None:
        self.trace_id = secrets.token_hex(16)
        self.span_id = secrets.token_hex(8)
        self.header = f"00-{self.trace_id}-{self.span_id}-01"


@pytest.fixture
def context() -> Context:
    return Context()


def read_tree(mesh: Mesh, trace_id: str, *wanted: str) -> dict[str, Any]:
    """The trace once it has settled: all `wanted` span names and no orphan."""

    def settled() -> dict[str, Any] | None:
        result = mesh.command("trace", trace_id, "--json")
        tree = json.loads(result.stdout) if result.returncode == 0 else {"roots": []}
        names = {span["name"] for span in flatten(tree)}
        return tree if set(wanted) <= names and is_whole(tree) else None

    return wait_for(f"trace {trace_id} with {wanted}", settled, SETTLE_S)


def is_whole(tree: dict[str, Any]) -> bool:
    """One root, and it is the edge's: the hops export their spans at their own moments."""
    return [root["span"]["service"] for root in tree["roots"]] == ["envoy-edge"]


def flatten(tree: dict[str, Any]) -> list[dict[str, Any]]:
    spans: list[dict[str, Any]] = []
    waiting = list(tree["roots"])
    while waiting:
        node = waiting.pop(0)
        spans.append(node["span"])
        waiting.extend(node["children"])
    return spans


def path_to(node: dict[str, Any], name: str) -> list[str] | None:
    """The services from this node down to the span called `name`."""
    service = node["span"]["service"]
    if node["span"]["name"] == name:
        return [service]
    for child in node["children"]:
        rest = path_to(child, name)
        if rest is not None:
            return [service, *rest]
    return None


def hops(tree: dict[str, Any], name: str) -> list[str]:
    path = path_to(tree["roots"][0], name)
    assert path is not None
    return [service for i, service in enumerate(path) if i == 0 or path[i - 1] != service]


ALL_HOPS = ["envoy-edge", "gateway", "envoy-mesh", "inference"]


def test_a_grpc_call_is_one_tree_under_the_clients_span(mesh: Mesh, context: Context) -> None:
    request = inference_pb2.ModelInferRequest(model_name="minilm")
    request.inputs.add(name="text", datatype="BYTES", shape=[1])
    request.inputs[0].contents.bytes_contents.append(b"hello")
    with grpc.insecure_channel(mesh.edge) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        _, call = stub.ModelInfer.with_call(request, metadata=[("traceparent", context.header)])
        assert dict(call.initial_metadata())["x-ringmesh-trace-id"] == context.trace_id
    tree = read_tree(mesh, context.trace_id, "queue", "compute")
    assert hops(tree, "compute") == ALL_HOPS
    assert hops(tree, "queue") == ALL_HOPS
    assert tree["roots"][0]["span"]["parent_id"] == context.span_id


def test_a_rest_call_is_one_tree(mesh: Mesh, http: httpx.Client, context: Context) -> None:
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["hello"]}]}
    reply = http.post("/v2/models/minilm/infer", json=body, headers={"traceparent": context.header})
    assert reply.headers["x-ringmesh-trace-id"] == context.trace_id
    assert hops(read_tree(mesh, context.trace_id, "compute"), "compute") == ALL_HOPS


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_one_tree(mesh: Mesh, http, context: Context, stream: bool) -> None:
    headers = {"traceparent": context.header}
    reply = http.post("/v1/chat/completions", json=CHAT | {"stream": stream}, headers=headers)
    assert reply.status_code == 200
    assert reply.headers["x-ringmesh-trace-id"] == context.trace_id
    tree = read_tree(mesh, context.trace_id, "queue", "prefill", "decode")
    assert hops(tree, "decode") == ALL_HOPS


def test_a_call_without_context_starts_a_trace_and_says_which(mesh: Mesh, http) -> None:
    reply = http.post("/v1/embeddings", json={"model": "minilm", "input": "hello"})
    trace_id = reply.headers["x-ringmesh-trace-id"]
    tree = read_tree(mesh, trace_id, "compute")
    assert hops(tree, "compute") == ALL_HOPS
    assert tree["roots"][0]["span"]["service"] == "envoy-edge"


def is_recorded(mesh: Mesh, http: httpx.Client) -> bool:
    """Whether a call without a context is recorded now.

    Told by a call after it, whose own context asks for recording: what it leaves came later.
    """
    body = {"inputs": [{"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}]}
    path, asked = "/v2/models/identity/infer", Context()
    plain = http.post(path, json=body).headers["x-ringmesh-trace-id"]
    http.post(path, json=body, headers={"traceparent": asked.header})
    read_tree(mesh, asked.trace_id, "compute")
    return mesh.command("trace", plain, "--json").returncode == 0


def test_tracing_stops_and_goes_on_with_its_setting(mesh: Mesh, http: httpx.Client) -> None:
    with triton.InferenceServerClient(mesh.edge) as client:
        assert is_recorded(mesh, http)
        client.update_trace_settings(settings={"trace_level": "OFF"})
        try:
            wait_for("no more traces", lambda: not is_recorded(mesh, http))
        finally:
            client.update_trace_settings(settings={"trace_level": "TIMESTAMPS", "trace_rate": None})
        wait_for("traces again", lambda: is_recorded(mesh, http))


def test_errors_carry_their_trace_id_too(mesh: Mesh, http: httpx.Client) -> None:
    reply = http.post("/v2/models/nope/infer", json={"inputs": []})
    assert reply.status_code == 404
    assert len(reply.headers["x-ringmesh-trace-id"]) == 32


def test_the_command_draws_the_tree(mesh: Mesh, http: httpx.Client) -> None:
    reply = http.post("/v1/chat/completions", json=CHAT)
    trace_id = reply.headers["x-ringmesh-trace-id"]
    read_tree(mesh, trace_id, "decode")
    drawn = mesh.command("trace", trace_id[:12])
    assert drawn.returncode == 0
    for word in (*ALL_HOPS, "queue", "prefill", "decode"):
        assert word in drawn.stdout
    assert trace_id[:12] in mesh.command("trace").stdout


def test_a_trace_right_after_its_request_is_whole_or_says_that_it_is_not(
    mesh: Mesh, http: httpx.Client
) -> None:
    reply = http.post("/v1/chat/completions", json=CHAT)
    drawn = mesh.command("trace", reply.headers["x-ringmesh-trace-id"])
    assert drawn.returncode == 0, drawn.stderr
    hops_drawn = all(word in drawn.stdout for word in (*ALL_HOPS, "queue", "prefill", "decode"))
    assert hops_drawn or "Incomplete: nothing is known of" in drawn.stdout
