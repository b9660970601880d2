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
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing

from mesh.errors import RingmeshError
from mesh.pb.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

GRPC_ERROR_HEADER = "triton_grpc_error"
"""A client that sends `true` wants the first failure to end the stream with its status."""

FINAL_RESPONSE = "triton_final_response"
"""The parameter that says of each response whether it is its request's last."""

DEPTH = 16

Respond = Callable[[ModelInferRequest], AsyncGenerator[ModelInferResponse, None]]


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
    """The requests that are under way, and what is ready to go out; None ends it."""

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
        self.out: asyncio.Queue[ModelStreamInferResponse | Exception | None] = asyncio.Queue(depth)
        self.under_way: set[asyncio.Task[None]] = set()

    async def read(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        last: asyncio.Task[None] | None = None
        try:
            async for request in requests:
                await self._slots.acquire()
                if self._is_decoupled(request):
                    self._start(request, None)
                else:
                    last = self._start(request, last)
            if self.under_way:
                await asyncio.wait(self.under_way)
            await self.out.put(None)
        except Exception as error:  # noqa: BLE001 - raised to whoever reads the stream
            await self.out.put(error)

    def _start(
        self, request: ModelInferRequest, before: asyncio.Task[None] | None
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(self._answer(request, before))
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
        return task

    async def _answer(self, request: ModelInferRequest, before: asyncio.Task[None] | None) -> None:
        try:
            async with aclosing(self._respond(request)) as responses:
                async for response in responses:
                    await _ended(before)
                    await self.out.put(ModelStreamInferResponse(infer_response=response))
        except RingmeshError as error:
            await _ended(before)
            await self.out.put(error if self._ends_at_failure else _failure(request.id, error))
        except Exception as error:  # noqa: BLE001 - as above
            await self.out.put(error)
        finally:
            self._slots.release()


async def _ended(before: asyncio.Task[None] | None) -> None:
    if before is not None and not before.done():
        await asyncio.wait({before})


def _failure(request_id: str, error: RingmeshError) -> ModelStreamInferResponse:
    # The id tells the client which of its requests failed.
    response = mark_final(ModelInferResponse(id=request_id))
    return ModelStreamInferResponse(error_message=error.message, infer_response=response)
