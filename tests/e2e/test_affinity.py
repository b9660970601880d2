"""Sessions stay on their node; a node's death moves its own sessions and nobody notices."""

import itertools
import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.harness import Mesh, wait_for

BODY = {"inputs": [{"name": "x", "datatype": "INT32", "shape": [1], "data": [1]}]}
CHAT = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Count from one to fifty in words."}],
    "temperature": 0,
    "max_tokens": 60,
    "stream": True,
}


def node_of(http: httpx.Client, session: str) -> str:
    reply = http.post("/v2/models/identity/infer", json=BODY, headers={"x-session-id": session})
    assert reply.status_code == 200, reply.text
    return reply.headers["x-ringmesh-node"]


def both_serve(mesh: Mesh, http: httpx.Client) -> bool:
    """By what they answer: Consul takes three seconds to see that a node is gone."""
    ready = all(len(mesh.serving_nodes(f"{m}@1")) == 2 for m in ("smollm2", "minilm", "identity"))
    return ready and len({node_of(http, f"s-{i}") for i in range(20)}) == 2


@pytest.fixture
def whole(mesh: Mesh, http: httpx.Client):
    """Both nodes serve everything, before and after."""
    wait_for("both nodes serving", lambda: both_serve(mesh, http))
    yield mesh
    wait_for("both nodes serving again", lambda: both_serve(mesh, http))


def test_a_session_keeps_its_node_and_sessions_spread(whole: Mesh, http: httpx.Client) -> None:
    places = {f"s-{i}": node_of(http, f"s-{i}") for i in range(40)}
    counts = [list(places.values()).count(node) for node in set(places.values())]
    assert len(counts) == 2
    assert min(counts) >= 8
    for session, node in places.items():
        assert node_of(http, session) == node


def test_every_protocol_sends_a_session_to_the_same_node(whole: Mesh, http: httpx.Client) -> None:
    import grpc  # noqa: PLC0415

    from mesh.pb import inference_pb2, inference_pb2_grpc  # noqa: PLC0415

    request = inference_pb2.ModelInferRequest(model_name="identity")
    request.inputs.add(name="x", datatype="INT32", shape=[1]).contents.int_contents.append(1)
    with grpc.insecure_channel(whole.edge) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        for session in ("a", "b", "c", "d"):
            call = stub.ModelInfer.with_call(request, metadata=[("x-session-id", session)])[1]
            metadata = dict(call.initial_metadata())
            assert metadata["x-ringmesh-node"] == node_of(http, session)


def test_a_dead_node_moves_its_own_sessions_only(whole: Mesh, http: httpx.Client) -> None:
    sessions = [f"s-{i}" for i in range(40)]
    before = {session: node_of(http, session) for session in sessions}
    victim, survivor = sorted(set(before.values()))
    os.kill(whole.node_pid(victim), signal.SIGKILL)
    after = {session: node_of(http, session) for session in sessions}
    assert set(after.values()) == {survivor}
    wait_for("both nodes serving again", lambda: both_serve(whole, http))
    wait_for(
        "every session back where it was",
        lambda: {session: node_of(http, session) for session in sessions} == before,
    )


def read_stream(base_url: str, session: str, started: threading.Barrier) -> str:
    text, first = [], True
    with (
        httpx.Client(base_url=base_url, timeout=90) as client,
        client.stream(
            "POST", "/v1/chat/completions", json=CHAT, headers={"x-session-id": session}
        ) as reply,
    ):
        assert reply.status_code == 200
        for line in reply.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            text.extend(choice["delta"].get("content") or "" for choice in event["choices"])
            if first and text:
                first = False
                started.wait(60)
    return "".join(text)


def test_ten_chats_survive_the_death_of_a_node(whole: Mesh, http: httpx.Client) -> None:
    """Killed while all ten stream: no error, and every text is what it would have been."""
    sessions = [f"chat-{i}" for i in range(10)]
    assert len({node_of(http, session) for session in sessions}) == 2
    expected = read_stream(f"http://{whole.edge}", "alone", threading.Barrier(1))
    started = threading.Barrier(11)
    with ThreadPoolExecutor(10) as pool:
        futures = [
            pool.submit(read_stream, f"http://{whole.edge}", session, started)
            for session in sessions
        ]
        started.wait(60)  # each has its first token
        os.kill(whole.node_pid(node_of(http, sessions[0])), signal.SIGKILL)
        texts = [future.result(90) for future in futures]
    assert texts == [expected] * 10


def test_unary_calls_see_no_failure_while_a_node_dies(whole: Mesh, http: httpx.Client) -> None:
    stop = threading.Event()
    codes: list[int] = []

    def hammer(worker: int) -> None:
        with httpx.Client(base_url=f"http://{whole.edge}", timeout=30) as client:
            for count in itertools.takewhile(lambda _: not stop.is_set(), itertools.count()):
                headers = {"x-session-id": f"{worker}-{count}"}
                reply = client.post("/v2/models/identity/infer", json=BODY, headers=headers)
                codes.append(reply.status_code)

    def hundred_more() -> None:
        before = len(codes)
        wait_for("a hundred more answers", lambda: len(codes) >= before + 100)

    victim = node_of(http, "x")
    pid = whole.node_pid(victim)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(hammer, worker) for worker in range(8)]
        try:
            hundred_more()
            os.kill(pid, signal.SIGKILL)
            hundred_more()
            wait_for("the node started again", lambda: whole.node_pid(victim) != pid)
            hundred_more()
        finally:
            stop.set()
        for future in futures:
            future.result(60)
    assert set(codes) == {200}
