"""`pygrpc-native`'s server, and whether its clients have taken its answers.

A handler ends when its last message is handed to the library; from there on only the library knows
how far it has come, and a reader may take its time. Its metrics tell: a call counts as started when
it arrives, and under its status when the last of its answer has gone out, or its client has gone.
What goes by way of the library's own grpcio server (bidirectional streams) is not among them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

import grpc
import pygrpc_native.aio

from mesh import cores

CORES_FOR_TWO = 8
"""From so many on, a second thread for HTTP/2, as large tensors like it. On fewer they get in each
other's way: a message is handed from one to the other, and tokens come later."""

THREAD = "grpc-native-io"
"""What the library calls its threads for HTTP/2."""

POLL_S = 0.01
"""Often enough: it ends a process, and costs 15 us."""

Send = Callable[[bytes], bool]


def sender(context: grpc.aio.ServicerContext) -> Send | None:
    """Sends a message of a stream at once, if this server can, behind what was sent before.

    It is sent if the function says so. Otherwise the reader is behind or gone, and the message is
    to be sent as others are, which takes as long as it takes. Initial metadata comes first.
    """
    if not isinstance(context, pygrpc_native.aio._Context):  # noqa: SLF001 - it has no other name
        return None
    front, call = context._server._front, context._call.call_id  # noqa: SLF001
    if front is None:
        return None
    send = front.stream_try_send
    return lambda message: send(call, message) == pygrpc_native.STREAM_SENT


def keep_off(core: int) -> None:
    """Has the native servers of this process do without a core, if there is another."""
    cores.keep_off(THREAD, core)


class NativeServer(pygrpc_native.aio.Server):
    """The library's server, with its metrics on."""

    def __init__(
        self,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        options: Sequence[tuple[str, int]],
    ) -> None:
        super().__init__(
            interceptors=interceptors,
            options=options,
            io_threads=1 if (os.cpu_count() or 1) < CORES_FOR_TWO else 2,
        )
        self._front_args["metrics"] = True  # the front takes it, and no gRPC option stands for it

    @property
    def answers_under_way(self) -> int:
        """Calls whose answer is not made, or not taken yet."""
        metrics = None if self._front is None else self._front.metrics()
        if metrics is None:
            return 0
        return sum(
            method["started"] - sum(status["count"] for status in method["status"].values())
            for method in metrics["methods"].values()
        )

    async def wait_until_taken(self) -> None:
        """Returns once no answer is under way."""
        while self.answers_under_way:  # noqa: ASYNC110 - the library has no event for it
            await asyncio.sleep(POLL_S)
