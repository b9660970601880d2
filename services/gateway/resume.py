"""Takes up a generation again that broke off, so that its caller notices nothing.

A node that dies takes its stream along, but not the text: with the tokens that were delivered, the
same seed and the same request, another node goes on exactly there. `Continuation` is the
bookkeeping and is pure; `generate` carries it out. A refusal (not ready, queue full, a bad request)
is an answer and is not repeated; what is: a node that dies, an engine that breaks, a model that is
unloaded under the stream. Where nobody else takes it up, the caller is told why it broke off.

The version that began goes on, wherever the name or the alias leads by then: another one would
continue a text that it would not have written.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from mesh.deadline import HOP_OVERHEAD_S
from mesh.errors import ModelNotFound, ModelNotReady, QueueFull, RingmeshError, Unavailable
from mesh.logs import get_logger
from mesh.pb.node_pb2 import GenerateRequest, GenerateResponse
from mesh.reference import ModelReference
from services.gateway.node_client import Hop, NodeClient

SEED_BITS = 63
"""Fits the signed and the unsigned 64-bit integers of every protocol on the way."""

_NOBODY_ELSE = (ModelNotFound, ModelNotReady, QueueFull)
"""How it reads that no node takes a text up."""

_log = get_logger(__name__)


class Continuation:
    """One generation over several calls: what was delivered, and how to go on from there."""

    def __init__(self, request: GenerateRequest, attempts: int) -> None:
        self._request = request
        self._attempts_left = attempts
        self._tokens: list[int] = []
        self._has_started = False
        self._version = ""

    def __repr__(self) -> str:
        return f"<Continuation {len(self._tokens)} tokens, {self._attempts_left} attempts left>"

    def next_request(self) -> GenerateRequest:
        """The request for the next call: the caller's own, going on after what was delivered."""
        if not (self._version or self._tokens):
            return self._request
        request = GenerateRequest()
        request.CopyFrom(self._request)
        request.model_version = self._version or request.model_version
        request.resume_token_ids.extend(self._tokens)
        return request

    def next_model(self, asked: ModelReference) -> ModelReference:
        """Whom the next call is for: who was asked, and then the version that began."""
        return ModelReference(asked.name, int(self._version)) if self._version else asked

    def accept(self, event: GenerateResponse) -> bool:
        """Notes an event; False if the caller has had it already."""
        kind = event.WhichOneof("event")
        if kind == "delta":
            self._tokens.extend(event.delta.token_ids)
        elif kind == "started":
            if self._has_started:
                return False
            self._has_started = True
            self._version = event.started.model_version
        elif kind == "finished":
            event.finished.completion_tokens = max(
                event.finished.completion_tokens, len(self._tokens)
            )
        return True

    def outcome(self, broke: Unavailable | None, refusal: RingmeshError) -> RingmeshError:
        """What the caller of a refused call is told: for a text half said, why it broke off."""
        if broke is None or not self._has_started or not isinstance(refusal, _NOBODY_ELSE):
            return refusal
        return Unavailable(
            f"the text broke off: {broke.message}; version {self._version} could not go on with it "
            f"elsewhere: {refusal.message}",
            metadata=refusal.metadata,
            retry_after_s=refusal.retry_after_s,
        )

    def may_go_on(self, time_left_s: float) -> bool:
        """Whether another call is worth making; counts it if so."""
        if self._attempts_left == 0 or time_left_s <= HOP_OVERHEAD_S:
            return False
        self._attempts_left -= 1
        return True


def fix_seed(request: GenerateRequest) -> None:
    """Chooses the seed here where the caller left it open: a continuation must sample alike."""
    if not request.sampling.HasField("seed"):
        request.sampling.seed = secrets.randbits(SEED_BITS)


async def generate(
    nodes: NodeClient, request: GenerateRequest, hop: Hop, *, attempts: int
) -> AsyncGenerator[GenerateResponse, None]:
    """The events of one generation, whichever nodes they come from."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + hop.timeout_s
    fix_seed(request)
    state = Continuation(request, attempts)
    broke: Unavailable | None = None
    while True:
        model = state.next_model(hop.model)
        current = replace(hop, model=model, timeout_s=deadline - clock())
        try:
            async with aclosing(nodes.generate(state.next_request(), current)) as events:
                async for event in events:
                    if state.accept(event):
                        yield event
                return
        except Unavailable as error:
            if not state.may_go_on(deadline - clock()):
                raise
            broke = error
            _log.warning("generation taken up again", model=str(model), why=error.message)
        except _NOBODY_ELSE as error:
            raise state.outcome(broke, error) from error
