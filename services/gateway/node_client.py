"""Calls to nodes, all through one channel to Envoy's mesh listener.

Envoy picks the node: by the model in `x-ringmesh-model` and the key in `x-ringmesh-affinity`. This
module sets those headers, bounds each call by what its caller still waits, and turns failures into
the error tree. What a node says passes as it is; what Envoy or the connection says has no reason of
ours, and gets a sentence that names the model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc

from mesh.deadline import HOP_OVERHEAD_S
from mesh.errors import (
    DeadlineExceeded,
    ModelNotReady,
    PayloadTooLarge,
    RemoteError,
    RingmeshError,
    Unavailable,
    error_from_rpc,
)
from mesh.pb import inference_pb2 as oip
from mesh.pb import inference_pb2_grpc, node_pb2, node_pb2_grpc
from mesh.reference import ModelReference
from services.gateway.caller import REQUEST_ID_HEADER, SESSION_HEADER

MODEL_HEADER = "x-ringmesh-model"
AFFINITY_HEADER = "x-ringmesh-affinity"
RECEIPT_HEADERS = ("x-ringmesh-node", "x-ringmesh-version")

END_WAIT_S = 1.0
"""How long a node may take from its last event to its status; as a rule they come together."""

_CUT_SHORT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
}
"""How a call reads that somebody on the way has ended."""

_TOO_LARGE = "message larger than max"
"""What gRPC itself says, on either side, of a message beyond the limit: there is only its text."""

M = TypeVar("M")


class BrokenOff(Unavailable):
    """The connection to the node broke, or its stream ended without its last event."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One call to a node: which model, whose, and for how long."""

    model: ModelReference
    timeout_s: float
    affinity: str | None = None
    session: str | None = None
    request_id: str | None = None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What Envoy and the node read."""
        pairs = (
            (MODEL_HEADER, str(self.model)),
            (AFFINITY_HEADER, self.affinity),
            (SESSION_HEADER, self.session),
            (REQUEST_ID_HEADER, self.request_id),
        )
        # HTTP headers may hold what gRPC metadata must not.
        return tuple(
            (key, value)
            for key, value in pairs
            if value and value.isascii() and value.isprintable()
        )


@dataclass(frozen=True, slots=True)
class Answer(Generic[M]):
    """A node's message, and its receipt: the node and version that it came from."""

    message: M
    receipt: Mapping[str, str]


class NodeClient:
    """The nodes behind Envoy's mesh listener."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._oip: Any = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        self._node: Any = node_pb2_grpc.NodeStub(channel)

    async def infer(
        self, request: oip.ModelInferRequest, hop: Hop
    ) -> Answer[oip.ModelInferResponse]:
        """Runs a tensor model."""
        return await self._unary(self._oip.ModelInfer, request, hop)

    async def model_ready(
        self, request: oip.ModelReadyRequest, hop: Hop
    ) -> Answer[oip.ModelReadyResponse]:
        """Asks a node whether it would answer for this model."""
        return await self._unary(self._oip.ModelReady, request, hop)

    async def model_metadata(
        self, request: oip.ModelMetadataRequest, hop: Hop
    ) -> Answer[oip.ModelMetadataResponse]:
        """Asks for a model's inputs and outputs."""
        return await self._unary(self._oip.ModelMetadata, request, hop)

    async def model_config(
        self, request: oip.ModelConfigRequest, hop: Hop
    ) -> Answer[oip.ModelConfigResponse]:
        """Asks for a model's configuration."""
        return await self._unary(self._oip.ModelConfig, request, hop)

    async def generate(
        self, request: node_pb2.GenerateRequest, hop: Hop
    ) -> AsyncGenerator[node_pb2.GenerateResponse, None]:
        """One generation, up to and with its `Finished`.

        Raises:
            BrokenOff: the stream ended before that, and no node said why.
        """
        began_s = time.monotonic()
        call = self._node.Generate(request, timeout=hop.timeout_s, metadata=hop.metadata())
        events = aiter(call)
        try:
            async for event in events:
                if event.HasField("finished"):
                    await _read_to_end(events)
                    yield event
                    return
                yield event
        except grpc.aio.AioRpcError as error:
            raise node_error(error, hop, _is_late(hop, began_s), started=True) from error
        finally:
            call.cancel()  # nothing if it is over; frees the node's slot if the caller left
        raise BrokenOff(f"the stream of model '{hop.model}' ended without its last event")

    async def _unary(self, method: Any, request: Any, hop: Hop) -> Answer[Any]:
        began_s = time.monotonic()
        call = method(request, timeout=hop.timeout_s, metadata=hop.metadata())
        try:
            message = await call
            return Answer(message, await _receipt(call.initial_metadata()))
        except grpc.aio.AioRpcError as error:
            raise node_error(error, hop, _is_late(hop, began_s)) from error


async def _read_to_end(events: AsyncIterator[Any]) -> None:
    """Lets a call that has said its last come to its own end: a call cut short counts as failed."""
    with suppress(TimeoutError, grpc.aio.AioRpcError):  # what was said stays said
        async with asyncio.timeout(END_WAIT_S):
            await anext(events, None)


async def _receipt(metadata: Awaitable[grpc.aio.Metadata]) -> Mapping[str, str]:
    return {key: str(value) for key, value in await metadata if key in RECEIPT_HEADERS}


def _is_late(hop: Hop, began_s: float) -> bool:
    return time.monotonic() - began_s >= hop.timeout_s - HOP_OVERHEAD_S


def node_error(
    error: grpc.aio.AioRpcError, hop: Hop, is_late: bool = False, *, started: bool = False
) -> RingmeshError:
    """What a failed call means; `started` where an answer may have been under way already.

    `is_late` where the call's time was over: Envoy ends a call at the same moment as this side
    does, and whichever comes first, the deadline was the reason.
    """
    made = error_from_rpc(error)
    if isinstance(made, ModelNotReady) and not made.metadata.get("model"):
        # Envoy's own answer where a version has no node: it does not know what was asked.
        return ModelNotReady(str(hop.model), "UNAVAILABLE", "no node has it ready")
    if isinstance(made, RemoteError):
        if is_late and made.code in _CUT_SHORT:
            return _out_of_time(hop)
        return _transport_error(made, error.details() or "", hop, started=started)
    return made


def _out_of_time(hop: Hop) -> DeadlineExceeded:
    return DeadlineExceeded(f"model '{hop.model}' did not answer within {hop.timeout_s:.3g} s")


def _transport_error(made: RemoteError, details: str, hop: Hop, *, started: bool) -> RingmeshError:
    match made.code:
        case grpc.StatusCode.UNAVAILABLE:
            return BrokenOff(f"no node could be reached for model '{hop.model}': {details}")
        case grpc.StatusCode.INTERNAL | grpc.StatusCode.CANCELLED if started:
            # How a reset stream reads; a node's own failure would have a reason.
            return BrokenOff(f"the stream of model '{hop.model}' broke off: {details}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return _out_of_time(hop)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if _TOO_LARGE in details:
            return PayloadTooLarge(
                f"too large for model '{hop.model}', or its answer is: {details}"
            )
        case grpc.StatusCode.UNIMPLEMENTED if not details:  # Envoy has no route
            return ModelNotReady(str(hop.model), "LOADING", "its route is not in place yet")
        case _:
            return made
