"""Ringmesh: a node's own gRPC stream, asked by a client in another process."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from pathlib import Path

from exchange import (
    DECODE_TOKENS,
    PROMPT_TOKENS,
    THREADS,
    NodeProcess,
    answer,
    prompt,
    running_node,
)
from node_clients import CLIENTS, Client, Heard

from mesh.pb import node_pb2

NEW_TOKENS = 20
"""Of the answer, and of the second turn's question."""
SETTLE_S = 0.3
"""Between the two loops: the threads of the one before spin on for a while."""


class Node:
    """A node, behind a client."""

    def __init__(self, client: Client, process: NodeProcess) -> None:
        self._client = client
        self._process = process

    def decode(self, streams: int) -> float:
        """Each stream's own rate, over as many tokens as of the others, while all of them run."""
        limit = _limit(streams)
        answers = self._client.ask([_request(prompt(PROMPT_TOKENS), limit) for _ in range(streams)])
        began = max(each.times[0] for each in answers)
        return sum(_rate([t for t in each.times if t >= began]) for each in answers)

    def cost(self, streams: int) -> float:
        """The per cent of the bare loop's rate that scheduler, gRPC and client take.

        Both in one process: two of the same kind differ by some per cent for as long as they live.
        """
        bare: float = self._process.ask([streams, DECODE_TOKENS])
        time.sleep(SETTLE_S)
        return 100 * (1 - self.decode(streams) / bare)

    def client(self, streams: int) -> float:
        """The per cent of the processor that asking and reading takes, here, not on the node."""
        began = time.process_time()
        rate = self.decode(streams)
        each_s = (time.process_time() - began) / (streams * _limit(streams))
        return 100 * rate * each_s / THREADS

    def prefill(self, tokens: int) -> float:
        """To the first token."""
        return tokens / self._first_token(prompt(tokens))

    def second_turn(self, tokens: int) -> float:
        """How much sooner the second turn of a conversation answers than it would cold."""
        ids = prompt(tokens)
        answered = self._ask(ids, NEW_TOKENS).tokens
        warm = self._first_token([*ids, *answered, *prompt(NEW_TOKENS)])
        cold = self._first_token(prompt(tokens + 2 * NEW_TOKENS))
        return cold / warm

    def _first_token(self, ids: list[int]) -> float:
        started = time.perf_counter()
        return self._ask(ids, 1).times[0] - started

    def _ask(self, ids: list[int], limit: int) -> Heard:
        return self._client.ask([_request(ids, limit)])[0]


def _request(ids: list[int], limit: int) -> node_pb2.GenerateRequest:
    return node_pb2.GenerateRequest(
        model_name="smollm2",
        token_ids=node_pb2.TokenIds(ids=ids),
        sampling=node_pb2.Sampling(temperature=0),
        max_tokens=limit,
        ignore_eos=True,
    )


def _rate(times: list[float]) -> float:
    return DECODE_TOKENS / (times[DECODE_TOKENS] - times[0])


def _limit(streams: int) -> int:
    # The first streams answer while the last prompts are read.
    return DECODE_TOKENS + 4 * streams


if __name__ == "__main__":
    client, *options = sys.argv[1:]
    with running_node(Path(__file__).with_name("node_process.py"), *options) as at:
        name = f"ringmesh {version('ringmesh')}, {client}"
        answer(lambda: Node(CLIENTS[client](at.address), at), name)
