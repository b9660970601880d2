"""Clients of a node's token stream: libcurl, which is light, and grpcio's, which most people use.

On a machine whose cores are all at work, a client takes its time from the node that it asks. Both
ask all requests at once, on one connection, and note when each token arrives; what has arrived the
light one looks at when all is there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import grpc
import pycurl

from mesh.pb import node_pb2, node_pb2_grpc

_PREFIX_BYTES = 5
"""Before every message: a flag, and its length (gRPC over HTTP/2, "Length-Prefixed-Message")."""

_Piece: TypeAlias = tuple[float, bytes]
"""Some bytes, and when they came."""


@dataclass
class Heard:
    """The tokens of an answer, and when each arrived (seconds of `perf_counter`)."""

    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def note(self, message: node_pb2.GenerateResponse, at: float) -> None:
        """Adds what came then."""
        ids = message.delta.token_ids
        self.tokens += ids
        self.times += [at] * len(ids)


class Client(Protocol):
    """Asks a node."""

    def ask(self, requests: Sequence[node_pb2.GenerateRequest]) -> list[Heard]:
        """All at once; returns when all answers are whole."""


class CurlClient:
    """libcurl's HTTP/2."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}/ringmesh.node.v1.Node/Generate"
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)

    def ask(self, requests: Sequence[node_pb2.GenerateRequest]) -> list[Heard]:
        """All at once; returns when all answers are whole."""
        pieces: list[list[_Piece]] = [[] for _ in requests]
        handles = [self._begin(*each) for each in zip(requests, pieces, strict=True)]
        running = len(handles)
        while running:
            self._multi.select(1.0)
            _, running = self._multi.perform()
        for handle in handles:
            self._multi.remove_handle(handle)
        return [_read(each) for each in pieces]

    def _begin(self, request: node_pb2.GenerateRequest, pieces: list[_Piece]) -> pycurl.Curl:
        message, clock = request.SerializeToString(), time.perf_counter
        handle = pycurl.Curl()
        handle.setopt(pycurl.URL, self._url)
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE)
        handle.setopt(pycurl.PIPEWAIT, 1)  # on the connection that is there
        handle.setopt(pycurl.HTTPHEADER, ["content-type: application/grpc", "te: trailers"])
        handle.setopt(pycurl.POSTFIELDS, b"\0" + len(message).to_bytes(4, "big") + message)
        handle.setopt(pycurl.WRITEFUNCTION, lambda piece: pieces.append((clock(), piece)))
        self._multi.add_handle(handle)
        return handle


def _read(pieces: Sequence[_Piece]) -> Heard:
    """A stream's bytes, cut into messages; each came with its last byte."""
    heard, rest = Heard(), b""
    for at, piece in pieces:
        rest += piece
        while len(rest) >= _PREFIX_BYTES:
            end = _PREFIX_BYTES + int.from_bytes(rest[1:_PREFIX_BYTES], "big")
            if len(rest) < end:
                break
            heard.note(node_pb2.GenerateResponse.FromString(rest[_PREFIX_BYTES:end]), at)
            rest = rest[end:]
    return heard


class GrpcioClient:
    """grpcio's, for asyncio."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._stub = self._loop.run_until_complete(self._connect(address))

    def ask(self, requests: Sequence[node_pb2.GenerateRequest]) -> list[Heard]:
        """All at once; returns when all answers are whole."""
        return self._loop.run_until_complete(self._ask(requests))

    async def _connect(self, address: str) -> node_pb2_grpc.NodeStub:
        return node_pb2_grpc.NodeStub(grpc.aio.insecure_channel(address))

    async def _ask(self, requests: Sequence[node_pb2.GenerateRequest]) -> list[Heard]:
        return list(await asyncio.gather(*map(self._hear, requests)))

    async def _hear(self, request: node_pb2.GenerateRequest) -> Heard:
        heard = Heard()
        async for message in self._stub.Generate(request):
            heard.note(message, time.perf_counter())
        return heard


CLIENTS: dict[str, type[CurlClient | GrpcioClient]] = {
    "libcurl": CurlClient,
    "grpcio": GrpcioClient,
}
