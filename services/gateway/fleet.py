"""One question to every node of the fleet, each at the address by which Consul knows it.

Not through Envoy, which would choose one of them. Connections are opened for the question and
closed after it: these questions are rare.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc

from mesh.errors import RemoteError, RingmeshError, Unavailable, error_from_rpc

Dial = Callable[[str], AbstractAsyncContextManager[grpc.aio.Channel]]
"""Opens a channel to an address."""

T = TypeVar("T")
Question = Callable[[grpc.aio.Channel], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class NodeReply(Generic[T]):
    """What one node said: an answer or an error."""

    node: str
    answer: T | None
    error: RingmeshError | None = None


@dataclass(frozen=True, slots=True)
class Fleet:
    """Asks the nodes."""

    dial: Dial

    async def ask(
        self, addresses: Mapping[str, str], question: Question[T]
    ) -> tuple[NodeReply[T], ...]:
        """What each node answers, in order; `addresses` are by the node's name."""
        asking = (self._ask(node, address, question) for node, address in addresses.items())
        return tuple(await asyncio.gather(*asking))

    async def _ask(self, node: str, address: str, question: Question[T]) -> NodeReply[T]:
        async with self.dial(address) as channel:
            try:
                return NodeReply(node, await question(channel))
            except grpc.aio.AioRpcError as error:
                return NodeReply(node, None, _meaning(node, error))


def answers_of(replies: Iterable[NodeReply[T]]) -> list[T]:
    """Every node's answer; raises the error of the first that has one."""
    found: list[T] = []
    for reply in replies:
        if reply.error is not None:
            raise reply.error
        found.append(_known(reply.answer))
    return found


def _known(answer: T | None) -> T:
    assert answer is not None  # noqa: S101  # a reply without an error has an answer
    return answer


def _meaning(node: str, error: grpc.aio.AioRpcError) -> RingmeshError:
    """A node's own words as they are; those of a lost connection with the node's name."""
    made: Any = error_from_rpc(error)
    if isinstance(made, RemoteError):
        return Unavailable(f"node {node} does not answer: {made.message}")
    assert isinstance(made, RingmeshError)  # noqa: S101
    return made
