"""The choices of one request: begun together, then read to the end or merged into one stream.

Nothing is sent to the client before every choice has begun, so that a refusal is still an ordinary
error answer. Whoever holds choices must finish or close them; closing cancels the nodes' calls.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass

from mesh.deadline import hop_timeout_s
from mesh.errors import RingmeshError
from mesh.pb.node_pb2 import Finished, GenerateRequest, GenerateResponse, Started, TokenLogprob
from mesh.reference import ModelReference
from services.gateway.affinity import affinity_key
from services.gateway.caller import Caller
from services.gateway.directory import parse_reference, require_task
from services.gateway.directory_watch import DirectoryWatch
from services.gateway.node_client import Hop, NodeClient
from services.gateway.resume import SEED_BITS, generate

SEED_COUNT = 2**64

Events = AsyncGenerator[GenerateResponse, None]


@dataclass(frozen=True, slots=True)
class Choice:
    """One generation that has begun; `events` goes on after `Started`."""

    index: int
    started: Started
    events: Events


@dataclass(frozen=True, slots=True)
class Finish:
    """A generation read to its end."""

    text: str
    logprobs: tuple[TokenLogprob, ...]
    finished: Finished


@dataclass(frozen=True, slots=True)
class TextGeneration:
    """Begins generations on nodes."""

    watch: DirectoryWatch
    nodes: NodeClient
    timeout_s: float
    attempts: int

    def find(self, model: str) -> ModelReference:
        """The language model that a request names."""
        reference = parse_reference(model)
        self.check(reference)
        return reference

    def check(self, reference: ModelReference) -> None:
        """Refuses a model that does not generate text, or does not now."""
        now = self.watch.now
        require_task(reference, now.manifest(reference), "text-generation")
        now.resolve(reference)

    async def begin(
        self,
        reference: ModelReference,
        requests: Sequence[GenerateRequest],
        caller: Caller,
        key: str | None,
    ) -> tuple[Choice, ...]:
        """Begins one generation per request; all of them, or an error."""
        hop = Hop(
            model=reference,
            timeout_s=hop_timeout_s(caller, default_s=self.timeout_s),
            affinity=affinity_key(session=caller.session) or key,
            session=caller.session,
            request_id=caller.request_id,
        )
        streams = [
            generate(self.nodes, request, hop, attempts=self.attempts) for request in requests
        ]
        firsts = await _first_events(streams)
        return tuple(
            Choice(index, first.started, stream)
            for index, (first, stream) in enumerate(zip(firsts, streams, strict=True))
        )


def spread_seeds(request: GenerateRequest, count: int) -> list[GenerateRequest]:
    """`count` copies of a request that differ in their seeds only."""
    given = request.sampling.HasField("seed")
    seed = request.sampling.seed if given else secrets.randbits(SEED_BITS)
    copies = []
    for offset in range(count):
        copy = GenerateRequest()
        copy.CopyFrom(request)
        copy.sampling.seed = (seed + offset) % SEED_COUNT
        copies.append(copy)
    return copies


async def read_all(choices: Sequence[Choice]) -> list[Finish]:
    """Reads every choice to its end; the first failure cancels the others."""
    try:
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(_read(choice)) for choice in choices]
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        await close_all(choices)
    return [task.result() for task in reading]


async def close_all(choices: Iterable[Choice]) -> None:
    """Cancels whatever is still going on."""
    await _close(choice.events for choice in choices)


async def merge(choices: Sequence[Choice]) -> AsyncGenerator[tuple[int, GenerateResponse], None]:
    """The events of all choices as they come, each with its choice's index."""
    if len(choices) == 1:  # the common case, and once per token: no queue, no task
        async for event in choices[0].events:
            yield 0, event
        return
    queue: asyncio.Queue[tuple[int, GenerateResponse] | RingmeshError | None] = asyncio.Queue()
    pumps = [asyncio.create_task(_pump(choice, queue)) for choice in choices]
    try:
        for _ in pumps:
            while (item := await queue.get()) is not None:
                if isinstance(item, RingmeshError):
                    raise item
                yield item
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(
    choice: Choice, queue: asyncio.Queue[tuple[int, GenerateResponse] | RingmeshError | None]
) -> None:
    try:
        async for event in choice.events:
            queue.put_nowait((choice.index, event))
        queue.put_nowait(None)
    except RingmeshError as error:
        queue.put_nowait(error)


async def _read(choice: Choice) -> Finish:
    texts: list[str] = []
    logprobs: list[TokenLogprob] = []
    finished = Finished()
    async for event in choice.events:
        if event.HasField("delta"):
            texts.append(event.delta.text)
            logprobs.extend(event.delta.logprobs)
        else:
            finished = event.finished
    return Finish("".join(texts), tuple(logprobs), finished)


async def _first_events(streams: Sequence[Events]) -> list[GenerateResponse]:
    """The first event of each; a refusal cancels the others, which it would only wait for."""
    try:
        async with asyncio.TaskGroup() as tasks:
            firsts = [tasks.create_task(_first_event(stream)) for stream in streams]
    except BaseExceptionGroup as group:
        await _close(streams)
        raise group.exceptions[0] from None
    except asyncio.CancelledError:
        await _close(streams)
        raise
    return [first.result() for first in firsts]


async def _first_event(stream: Events) -> GenerateResponse:
    return await anext(stream)


async def _close(streams: Iterable[Events]) -> None:
    for stream in streams:
        await stream.aclose()
