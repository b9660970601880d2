"""Clients of a node's token stream: a socket, which is light, and grpcio's, which most people use.

On a machine whose cores are all at work, a client takes its time from the node that it asks. Both
ask all requests at once, on one connection, and note when each token arrives; what has arrived the
light one looks at when all is there.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import grpc
from h2.connection import H2Connection
from h2.events import DataReceived
from h2.settings import SettingCodes

from mesh.pb import node_pb2, node_pb2_grpc

_PREFIX_BYTES = 5
"""Before every message: a flag, and its length (gRPC over HTTP/2, "Length-Prefixed-Message")."""
_FRAME_BYTES, _DATA, _HEADERS, _END_STREAM = 9, 0, 1, 1
"""Before every frame: its length, kind, flags and stream (RFC 9113, 4.1, 6.1 and 6.2)."""
_FIRST_WINDOW, _LARGEST_WINDOW = 2**16 - 1, 2**31 - 1
_MOST_AT_ONCE = 2**16

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


class SocketClient:
    """A socket, and what HTTP/2 makes of its bytes when all is there (RFC 9113, by way of `h2`)."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)

    def ask(self, requests: Sequence[node_pb2.GenerateRequest]) -> list[Heard]:
        """All at once; returns when all answers are whole."""
        connection = H2Connection()
        connection.initiate_connection()
        connection.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: _LARGEST_WINDOW})
        connection.increment_flow_control_window(_LARGEST_WINDOW - _FIRST_WINDOW)
        streams = [self._begin(connection, each) for each in requests]
        with socket.create_connection((self._host, self._port)) as link:
            link.sendall(connection.data_to_send())
            pieces = _take(link, len(streams))
        heard = {stream: _Messages() for stream in streams}
        for at, piece in pieces:
            for event in connection.receive_data(piece):
                if isinstance(event, DataReceived):
                    heard[event.stream_id].take(event.data, at)
        return [heard[stream].heard for stream in streams]

    def _begin(self, connection: H2Connection, request: node_pb2.GenerateRequest) -> int:
        stream, message = connection.get_next_available_stream_id(), request.SerializeToString()
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":authority": f"{self._host}:{self._port}",
            ":path": "/ringmesh.node.v1.Node/Generate",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        connection.send_headers(stream, list(headers.items()))
        body = b"\0" + len(message).to_bytes(4, "big") + message
        connection.send_data(stream, body, end_stream=True)
        return stream


def _take(link: socket.socket, streams: int) -> list[_Piece]:
    """Everything up to the end of so many streams, and when it came."""
    pieces, rest, clock = list[_Piece](), b"", time.perf_counter
    while streams:
        piece = link.recv(_MOST_AT_ONCE)
        pieces.append((clock(), piece))
        if not piece:
            raise ConnectionError("the node has hung up")
        rest += piece
        while len(rest) >= _FRAME_BYTES:
            size = _FRAME_BYTES + int.from_bytes(rest[:3], "big")
            if len(rest) < size:
                break
            # The end of a stream is a flag of its last frame, which is one of these two kinds.
            streams -= rest[3] in (_DATA, _HEADERS) and rest[4] & _END_STREAM
            rest = rest[size:]
    return pieces


class _Messages:
    """A stream's bytes, cut into messages; each came with its last byte."""

    def __init__(self) -> None:
        self.heard = Heard()
        self._rest = b""

    def take(self, data: bytes, at: float) -> None:
        rest = self._rest + data
        while len(rest) >= _PREFIX_BYTES:
            end = _PREFIX_BYTES + int.from_bytes(rest[1:_PREFIX_BYTES], "big")
            if len(rest) < end:
                break
            message = node_pb2.GenerateResponse.FromString(rest[_PREFIX_BYTES:end])
            self.heard.note(message, at)
            rest = rest[end:]
        self._rest = rest


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


CLIENTS: dict[str, type[SocketClient | GrpcioClient]] = {
    "socket": SocketClient,
    "grpcio": GrpcioClient,
}
