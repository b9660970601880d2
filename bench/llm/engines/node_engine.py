"""Ringmesh: a node's own gRPC stream, asked by a client in another process."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Coroutine
from importlib.metadata import version
from typing import TypeVar

import grpc
from exchange import DECODE_TOKENS, PROMPT_TOKENS, THREADS, answer, prompt, running_node

from mesh.pb import node_pb2, node_pb2_grpc

T = TypeVar("T")
NEW_TOKENS = 20
"""Of the answer, and of the second turn's question."""


class Node:
    """A node and a channel to it."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._stub = self._do(self._connect(address))

    def decode(self, streams: int) -> float:
        """Counted while all streams run, as many steps as of the others: from the last's first."""
        return self._do(self._decode(streams))

    def client(self, streams: int) -> float:
        """The per cent of the processor that asking and reading takes, here, not on the node."""
        began = time.process_time()
        rate = self.decode(streams)
        each_s = (time.process_time() - began) / (streams * _limit(streams))
        return 100 * rate * each_s / THREADS

    def prefill(self, tokens: int) -> float:
        """To the first token."""
        return tokens / self._do(self._first_token(prompt(tokens)))

    def second_turn(self, tokens: int) -> float:
        """How much sooner the second turn of a conversation answers than it would cold."""
        return self._do(self._second_turn(tokens))

    def _do(self, work: Coroutine[object, object, T]) -> T:
        return self._loop.run_until_complete(work)

    async def _connect(self, address: str) -> node_pb2_grpc.NodeStub:
        return node_pb2_grpc.NodeStub(grpc.aio.insecure_channel(address))

    async def _decode(self, streams: int) -> float:
        times: list[list[float]] = [[] for _ in range(streams)]
        limit = _limit(streams)
        await asyncio.gather(*(self._generate(prompt(PROMPT_TOKENS), limit, t) for t in times))
        began = max(each[0] for each in times)
        ended = min([t for t in each if t > began][:DECODE_TOKENS][-1] for each in times)
        return sum(began < t <= ended for each in times for t in each) / (ended - began)

    async def _first_token(self, ids: list[int]) -> float:
        times: list[float] = []
        started = time.perf_counter()
        await self._generate(ids, 1, times)
        return times[0] - started

    async def _second_turn(self, tokens: int) -> float:
        ids = prompt(tokens)
        answered = await self._generate(ids, NEW_TOKENS, [])
        warm = await self._first_token([*ids, *answered, *prompt(NEW_TOKENS)])
        cold = await self._first_token(prompt(tokens + 2 * NEW_TOKENS))
        return cold / warm

    async def _generate(self, ids: list[int], limit: int, times: list[float]) -> list[int]:
        request = node_pb2.GenerateRequest(
            model_name="smollm2",
            token_ids=node_pb2.TokenIds(ids=ids),
            sampling=node_pb2.Sampling(temperature=0),
            max_tokens=limit,
            ignore_eos=True,
        )
        tokens: list[int] = []
        async for event in self._stub.Generate(request):
            tokens += event.delta.token_ids
            times += [time.perf_counter()] * len(event.delta.token_ids)
        return tokens


def _limit(streams: int) -> int:
    # The first streams answer while the last prompts are read.
    return DECODE_TOKENS + 4 * streams


if __name__ == "__main__":
    with running_node("node_process.py", *sys.argv[1:]) as at:
        answer(lambda: Node(at), f"ringmesh {version('ringmesh')}")
