"""What the mesh costs: the same calls straight at a node and through edge, gateway and mesh.

Starts a mesh of one node on free ports, alternates the two ways in one run, and prints medians and
ratios. `make bench` keeps the table in bench/RESULTS.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx

from bench.results import keep
from mesh.local.run_state import MeshNotRunning, MeshRecord, read_record
from mesh.pb import inference_pb2, inference_pb2_grpc, node_pb2, node_pb2_grpc
from mesh.ports import free_ports

ROUNDS = 5
TOKENS = 96
START_TIMEOUT_S = 240
STORY = "Write a long story about the number {}."

Measure = Callable[[], Awaitable[float]]


def main() -> None:
    """Runs everything and writes the table."""
    with tempfile.TemporaryDirectory() as folder, running_mesh(Path(folder)) as record:
        rows = asyncio.run(measure_all(record))
    table = render(rows)
    print(table)  # noqa: T201 - the result
    keep(table)


@contextlib.contextmanager
def running_mesh(folder: Path) -> Iterator[MeshRecord]:
    """A mesh of one node."""
    edge, consul, admin = free_ports(3)
    state_dir = folder / "state"
    env = os.environ | {
        "RINGMESH_STATE_DIR": str(state_dir),
        "RINGMESH_EDGE_PORT": str(edge),
        "RINGMESH_CONSUL_PORT": str(consul),
        "RINGMESH_ENVOY_ADMIN_PORT": str(admin),
        "RINGMESH_NODES": "1",
    }
    command = [sys.executable, "-m", "mesh.cli.main", "up"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
    try:
        yield wait_until_ready(state_dir, process)
    finally:
        process.terminate()
        process.wait()


def wait_until_ready(state_dir: Path, process: subprocess.Popen[bytes]) -> MeshRecord:
    """The record of the mesh once it answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(MeshNotRunning):
            return read_record(state_dir)
        time.sleep(0.2)
    raise SystemExit("the mesh did not start")


async def measure_all(record: MeshRecord) -> list[tuple[str, str, float, float]]:
    """(what, unit, straight at the node, through the mesh), medians of alternating rounds."""
    async with (
        httpx.AsyncClient(base_url=f"http://{record.consul}") as consul,
        httpx.AsyncClient(base_url=f"http://{record.edge}", timeout=120) as edge,
    ):
        rows = (await consul.get("/v1/health/service/inference?passing")).json()
        node = f"127.0.0.1:{rows[0]['Service']['Port']}"
        async with (
            grpc.aio.insecure_channel(node) as straight,
            grpc.aio.insecure_channel(record.edge) as through,
        ):
            pairs: list[tuple[str, str, Measure, Measure]] = [
                (
                    "identity, one call at a time, p50",
                    "ms",
                    lambda: infer_p50_ms(straight),
                    lambda: infer_p50_ms(through),
                ),
                (
                    "first token, prompt of 40 tokens, its prefix warm",
                    "ms",
                    lambda: node_chats(straight, 1, first_token=True),
                    lambda: edge_chats(edge, 1, first_token=True),
                ),
                *(
                    (
                        f"decode, {count} chat{'s' if count > 1 else ''} at once",
                        "tokens/s",
                        lambda count=count: node_chats(straight, count),
                        lambda count=count: edge_chats(edge, count),
                    )
                    for count in (1, 8)
                ),
            ]
            return [(what, unit, *await alternate(a, b)) for what, unit, a, b in pairs]


async def alternate(first: Measure, second: Measure) -> tuple[float, float]:
    """Medians of both, taken in turns after one unmeasured round."""
    await first()
    await second()
    pairs = [(await first(), await second()) for _ in range(ROUNDS)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


async def infer_p50_ms(channel: grpc.aio.Channel) -> float:
    """Median latency of 100 calls of `identity`, one after the other."""
    stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    request = inference_pb2.ModelInferRequest(model_name="identity")
    request.inputs.add(name="x", datatype="INT32", shape=[1]).contents.int_contents.append(1)
    taken = []
    for _ in range(100):
        started = time.perf_counter()
        await stub.ModelInfer(request)
        taken.append((time.perf_counter() - started) * 1e3)
    return statistics.median(taken)


async def node_chats(channel: grpc.aio.Channel, count: int, *, first_token: bool = False) -> float:
    """Chats at the node's own service: ms to the first token, or tokens/s of all together."""
    stub = node_pb2_grpc.NodeStub(channel)

    async def one(number: int) -> float:
        message = node_pb2.ChatMessage(role="user", content=STORY.format(number))
        request = node_pb2.GenerateRequest(
            model_name="smollm2",
            chat=node_pb2.ChatPrompt(messages=[message]),
            sampling=node_pb2.Sampling(temperature=0),
            max_tokens=TOKENS,
            ignore_eos=True,
        )
        started = time.perf_counter()
        first = 0.0
        async for event in stub.Generate(request):
            if event.HasField("delta"):
                first = first or time.perf_counter() - started
        return first

    return await rate(one, count, first_token=first_token)


async def edge_chats(client: httpx.AsyncClient, count: int, *, first_token: bool = False) -> float:
    """The same through the OpenAI API at the edge, as a server-sent event stream."""

    async def one(number: int) -> float:
        body = {
            "model": "smollm2",
            "messages": [{"role": "user", "content": STORY.format(number)}],
            "temperature": 0,
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "stream": True,
        }
        started = time.perf_counter()
        first = 0.0
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if not first and line.startswith("data: {"):
                    delta = json.loads(line[6:])["choices"][0]["delta"]
                    first = time.perf_counter() - started if delta.get("content") else 0.0
        return first

    return await rate(one, count, first_token=first_token)


async def rate(one: Callable[[int], Awaitable[float]], count: int, *, first_token: bool) -> float:
    """Runs `count` of them at once."""
    started = time.perf_counter()
    firsts = await asyncio.gather(*(one(number) for number in range(count)))
    if first_token:
        return statistics.median(firsts) * 1e3
    return count * TOKENS / (time.perf_counter() - started)


def render(rows: list[tuple[str, str, float, float]]) -> str:
    """Its section."""
    about = (
        f"`make bench`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, "
        f"{platform.machine()}; one node, client and mesh on the same machine; medians of {ROUNDS} "
        "alternating rounds. Prompts are warm in the node's slots; decode rates include them."
    )
    lines = [
        "## What the mesh costs",
        about,
        "",
        "| | straight at the node | through the mesh | ratio |",
        "|---|---|---|---|",
    ]
    for what, unit, straight, through in rows:
        ratio = through / straight
        lines.append(f"| {what} | {straight:.4g} {unit} | {through:.4g} {unit} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
