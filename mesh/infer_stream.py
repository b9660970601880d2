"""Triton's `ModelStreamInfer`: many requests on one stream, any number of responses for each.

Requests run side by side, up to `depth` of them. Models that answer once keep the order of their
requests among each other, as Triton's do; the responses of decoupled models go out as they come,
and a client tells them apart by the request's id. A request that fails is told in its place and
ends nothing, unless the client has asked for real errors. When the client has sent its last request
(half-close), what is under way is finished first; when it leaves, that is cancelled.

It knows neither models nor nodes: what a request is answered with is `respond`'s to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from contextlib import aclosing
from typing import Any

from mesh.errors import RingmeshError
from mesh.pb.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

GRPC_ERROR_HEADER = "triton_grpc_error"
"""A client that sends `true` wants the first failure to end the stream with its status."""

FINAL_RESPONSE = "triton_final_response"
"""The parameter that says of each response whether it is its request's last."""

DEPTH = 16

Respond = Callable[[ModelInferRequest], AsyncGenerator[ModelInferResponse, None]]
Item = ModelStreamInferResponse | Exception
_Turn = asyncio.Queue[Item | None]
"""What a request in order is answered with, up to None. Never full: the slots bound what waits."""


def wants_grpc_errors(metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
    """Whether the first failure is to end the stream."""
    return (GRPC_ERROR_HEADER, "true") in ((key, value) for key, value in metadata or ())


def mark_final(response: ModelInferResponse, *, is_final: bool = True) -> ModelInferResponse:
    """The response itself, marked."""
    response.parameters[FINAL_RESPONSE].bool_param = is_final
    return response


async def answer_stream(
    requests: AsyncIterator[ModelInferRequest],
    respond: Respond,
    *,
    is_decoupled: Callable[[ModelInferRequest], bool],
    ends_at_failure: bool = False,
    depth: int = DEPTH,
) -> AsyncGenerator[ModelStreamInferResponse, None]:
    """Every response to every request; closing it cancels what is under way."""
    stream = _Stream(respond, is_decoupled, depth, ends_at_failure=ends_at_failure)
    reader = asyncio.create_task(stream.read(requests))
    try:
        while (item := await stream.out.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        tasks = (reader, *stream.under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Stream:
    """The requests that are under way, and what is ready to go out; None ends it.

    Each is answered in a task of its own, which is done when the answer is made. One that has to
    wait for its turn, or for the reader, waits in a queue, and keeps nothing busy meanwhile: the
    answer before may wait for the very model that this one came from.
    """

    def __init__(
        self,
        respond: Respond,
        is_decoupled: Callable[[ModelInferRequest], bool],
        depth: int,
        *,
        ends_at_failure: bool,
    ) -> None:
        self._respond = respond
        self._is_decoupled = is_decoupled
        self._ends_at_failure = ends_at_failure
        self._slots = asyncio.Semaphore(depth)
        # Bounded: whoever reads slowly holds the models up, not the memory.
        self.out: asyncio.Queue[Item | None] = asyncio.Queue(depth)
        self._turns: asyncio.Queue[_Turn | None] = asyncio.Queue()
        self.under_way: set[asyncio.Task[None]] = set()

    async def read(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        try:
            self._start(self._tell_in_turn())
            async for request in requests:
                await self._slots.acquire()
                if self._is_decoupled(request):
                    self._start(self._answer_as_it_comes(request))
                else:
                    turn: _Turn = asyncio.Queue()
                    self._turns.put_nowait(turn)
                    self._start(self._answer_in_turn(request, turn))
            self._turns.put_nowait(None)
            await asyncio.wait(self.under_way)
            await self.out.put(None)
        except Exception as error:  # noqa: BLE001 - raised to whoever reads the stream
            await self.out.put(error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

    async def _answer_as_it_comes(self, request: ModelInferRequest) -> None:
        try:
            await self._answer(request, self.out)
        finally:
            self._slots.release()

    async def _answer_in_turn(self, request: ModelInferRequest, turn: _Turn) -> None:
        try:
            await self._answer(request, turn)
        finally:
            turn.put_nowait(None)

    async def _answer(self, request: ModelInferRequest, into: asyncio.Queue[Item | None]) -> None:
        try:
            async with aclosing(self._respond(request)) as responses:
                async for response in responses:
                    await into.put(ModelStreamInferResponse(infer_response=response))
        except RingmeshError as error:
            await into.put(error if self._ends_at_failure else _failure(request.id, error))
        except Exception as error:  # noqa: BLE001 - as above
            await into.put(error)

    async def _tell_in_turn(self) -> None:
        """Hands the answers of models that answer once to the reader, in their requests' order."""
        while (turn := await self._turns.get()) is not None:
            while (item := await turn.get()) is not None:
                await self.out.put(item)
            self._slots.release()


def _failure(request_id: str, error: RingmeshError) -> ModelStreamInferResponse:
    # The id tells the client which of its requests failed.
    response = mark_final(ModelInferResponse(id=request_id))
    return ModelStreamInferResponse(error_message=error.message, infer_response=response)
