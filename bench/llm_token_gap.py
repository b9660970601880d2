"""How long running streams wait for their next token while a long prompt arrives.

Four streams of the demo model run through a node's own gRPC stream; then a prompt of 900 tokens
comes, and is computed in chunks between their tokens. A larger chunk has the prompt answered sooner
and makes the others wait longer: the table shows both for several sizes, taken in turns in one run.

The node is a process of its own, with one version of the model per chunk size. `make bench-llm`
prints the table and keeps it in bench/RESULTS.md. Figures, never pass or fail.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from bench.llm.engines.exchange import running_node
from bench.results import keep
from mesh.deployment import VersionSpec
from mesh.local.cache import find_cache_dir
from mesh.local.demo_models import obtain_demo_models
from mesh.manifest import Manifest
from mesh.model_options import GenerationOptions
from mesh.pb import node_pb2, node_pb2_grpc
from mesh.server import serve
from mesh.telemetry import open_telemetry
from services.inference.backends.available import make_backends
from services.inference.backends.backend import BackendSettings
from services.inference.bindings import make_bindings
from services.inference.llm.metrics import LanguageModelMetrics
from services.inference.llm.opening import open_language_model
from services.inference.models.residence import Residence
from services.inference.models.state import Change
from services.inference.models.table import ModelTable

TITLE = "## Running streams while a long prompt arrives"
CHUNKS = (32, 64, 128, 256)
ROUNDS = 5
STREAMS = 4
PROMPT_TOKENS = 900
WARM_TOKENS = 12
"""Tokens that every stream has had when the prompt arrives."""
WORDS = range(1000, 20_000)


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds: gaps between tokens without and with the prompt, and until its first token."""

    before: tuple[float, ...]
    during: tuple[float, ...]
    first_token: float


def main() -> None:
    """Measures, prints, keeps; `serve` is the node's process."""
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(run_node(Path(sys.argv[2])))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    section = asyncio.run(measure_all(parser.parse_args().rounds))
    print(section)  # noqa: T201 - the result
    keep(section)


async def measure_all(count: int) -> str:
    """The section, of so many rounds."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_node(Path(__file__), "serve", folder) as node,
    ):
        async with grpc.aio.insecure_channel(node.address) as channel:
            stub = node_pb2_grpc.NodeStub(channel)
            for chunk in CHUNKS:
                await measure(stub, chunk)
            rounds: dict[int, list[Round]] = {chunk: [] for chunk in CHUNKS}
            for _ in range(count):
                for chunk in CHUNKS:
                    rounds[chunk].append(await measure(stub, chunk))
    return render(rounds)


async def measure(stub: Any, chunk: int) -> Round:
    """One round: streams, then the prompt."""
    async with asyncio.TaskGroup() as group:
        streams = [Stream(stub.Generate(request(chunk, 24, 1500))) for _ in range(STREAMS)]
        readers = [group.create_task(stream.read()) for stream in streams]
        for stream in streams:
            await stream.warm.wait()
        sent = time.perf_counter()
        prompt = Stream(stub.Generate(request(chunk, PROMPT_TOKENS, 1)))
        await prompt.read()
        for reader in readers:
            reader.cancel()
    ended = prompt.times[0]
    return Round(
        before=tuple(gaps(streams, 0, sent)),
        during=tuple(gaps(streams, sent, ended)),
        first_token=ended - sent,
    )


class Stream:
    """A generation, and when its tokens arrived."""

    def __init__(self, call: Any) -> None:
        self.times: list[float] = []
        self.warm = asyncio.Event()
        self._call = call

    async def read(self) -> None:
        """Reads to the end, or until cancelled."""
        try:
            async for event in self._call:
                if event.HasField("delta"):
                    self._note(time.perf_counter())
        finally:
            self._call.cancel()

    def _note(self, now: float) -> None:
        self.times.append(now)
        if len(self.times) >= WARM_TOKENS:
            self.warm.set()


def request(chunk: int, prompt_tokens: int, max_tokens: int) -> node_pb2.GenerateRequest:
    """A generation from a prompt that no slot holds yet."""
    prompt = random.sample(WORDS, prompt_tokens)
    return node_pb2.GenerateRequest(
        model_name="smollm2",
        model_version=str(chunk),
        token_ids=node_pb2.TokenIds(ids=prompt),
        sampling=node_pb2.Sampling(temperature=0),
        max_tokens=max_tokens,
        ignore_eos=True,
    )


def gaps(streams: Sequence[Stream], begin: float, end: float) -> Iterator[float]:
    """The gaps between tokens of a stream that ended within that time."""
    for stream in streams:
        for before, after in pairwise(stream.times):
            if begin <= after <= end:
                yield after - before


async def run_node(cache_dir: Path) -> None:
    """Serves the versions until it is ended; the first line that it prints is its address."""
    async with AsyncExitStack() as stack:
        telemetry = stack.enter_context(open_telemetry("bench", "bench-1", otlp_endpoint=None))
        table = await stack.enter_async_context(open_table(cache_dir))
        server = await stack.enter_async_context(
            serve(
                listen="127.0.0.1:0",
                services=make_bindings("bench", table, Residence(), telemetry.tracer),
                telemetry=telemetry,
                drain_timeout_s=1,
            )
        )
        print(f"127.0.0.1:{server.port}", flush=True)  # noqa: T201 - for the parent
        await asyncio.Event().wait()


@asynccontextmanager
async def open_table(cache_dir: Path) -> AsyncIterator[ModelTable]:
    """A table with a version per chunk size, numbered by it."""
    folder = obtain_demo_models(find_cache_dir()).smollm2_gguf.parent
    backends = make_backends(BackendSettings())
    metrics = LanguageModelMetrics(CollectorRegistry())
    async with aclosing(ModelTable()) as table:
        for chunk in CHUNKS:
            spec = spec_of(chunk)
            table.place(("smollm2", chunk))
            table.change(("smollm2", chunk), Change.LOAD_BEGAN)
            model = await open_language_model(folder, spec, cache_dir, backends, metrics)
            await model.warm_up()
            table.change(("smollm2", chunk), Change.LOADED, loaded=model)
        yield table


def spec_of(chunk: int) -> VersionSpec:
    """The demo model with that chunk size; all versions share one compiled graph."""
    manifest = Manifest(
        name="smollm2",
        task="text-generation",
        format="gguf",
        generation=GenerationOptions(prefill_chunk_tokens=chunk),
    )
    return VersionSpec(version=chunk, digest="0" * 64, manifest=manifest, files=())


def render(rounds: dict[int, list[Round]]) -> str:
    """Markdown; p99 over all rounds, the rest medians over rounds."""
    about = (
        f"`make bench-llm`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, "
        f"{platform.machine()}, load {os.getloadavg()[0]:.1f}; SmolLM2-135M, {STREAMS} running "
        f"streams, a prompt of {PROMPT_TOKENS} tokens arrives; {len(rounds[CHUNKS[0]])} "
        f"alternating rounds; milliseconds."
    )
    head = (
        "tokens of a chunk",
        "gap before, p50",
        "meanwhile, p50",
        "p99",
        "largest of a round",
        "first token",
    )
    lines = [TITLE, about, "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for chunk, each in rounds.items():
        during = [gap for one in each for gap in one.during]
        figures = (
            statistics.median(gap for one in each for gap in one.before),
            statistics.median(during),
            statistics.quantiles(during, n=100)[-1],
            statistics.median(max(one.during) for one in each),
            statistics.median(one.first_token for one in each),
        )
        lines.append(f"| {chunk} | " + " | ".join(f"{1e3 * f:.0f}" for f in figures) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
