"""Between the engine's thread and the event loop: submits requests, carries events to callers.

`open_scheduler` starts the engine's thread and ends it. A `Generation` is an async iterator that a
caller leaves at any time; leaving it cancels the answer, and its slot is free before the next step.
Only a few objects cross between the threads: answers into `Intake`, batches of events back. Most
tokens need no event loop: they go to their reader from the engine's thread, by a shortcut.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from mesh.errors import Internal, RingmeshError
from mesh.logs import get_logger
from services.inference.llm.answer import Answer, Task
from services.inference.llm.engine import UNLOADED, Engine, Occupancy
from services.inference.llm.intake import Intake
from services.inference.llm.request import Delta, Event, Finished
from services.inference.llm.runs import UNMETERED, EngineMeter
from services.inference.llm.slot_backend import SlotBackend
from services.inference.llm.slot_table import Mail

log = get_logger(__name__)

Send: TypeAlias = "Callable[[Delta], bool]"
"""Takes tokens on to whom they are for, at once; false if they have to go the long way."""
Left: TypeAlias = "list[tuple[Generation, Event | RingmeshError]]"


class Generation:
    """The events of one answer, from the engine's thread to one who waits on the event loop.

    The shortcut is open while all that was posted has been passed on; who asks for the next event
    has passed on the one before. Both counts only grow, each by the hand of one thread, and when
    they are equal only the engine's can part them: so no token overtakes another.
    """

    def __init__(self, send: Send | None = None) -> None:
        self._send = send
        self._posted = 0
        self._passed_on = 0
        self._taken = 0
        self._events: deque[Event | RingmeshError] = deque()
        self._arrival: asyncio.Future[None] | None = None

    def shorten(self, event: Event | RingmeshError) -> Event | RingmeshError | None:
        """What has to be delivered of an event: nothing, if it went by the shortcut.

        On the engine's thread.
        """
        if self._send is not None and isinstance(event, Delta) and self._posted == self._passed_on:
            try:
                if self._send(event):
                    return None
            except (
                Exception
            ):  # one caller's in everybody's thread; it may have been sent, so no more
                log.exception("engine.shortcut_failed")
                event = Internal("the answer failed; the node's log has the details")
        self._posted += 1
        return event

    def put(self, event: Event | RingmeshError) -> None:
        """Adds an event; on the event loop."""
        self._events.append(event)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def take(self) -> Event:
        """The next event, once there is one; tokens that are ready at the same time come as one."""
        self._passed_on, self._taken = self._passed_on + self._taken, 0
        while not self._events:
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        event = self._pop()
        if isinstance(event, RingmeshError):
            raise event
        while isinstance(event, Delta) and self._events and isinstance(self._events[0], Delta):
            event = _join(event, self._pop())
        return event

    def _pop(self) -> Event | RingmeshError:
        self._taken += 1
        return self._events.popleft()


def _join(first: Delta, second: Event | RingmeshError) -> Delta:
    assert isinstance(second, Delta)  # noqa: S101  # the caller has looked
    return Delta(
        second.at_ns,
        first.text + second.text,
        first.token_ids + second.token_ids,
        first.logprobs + second.logprobs,
    )


class Scheduler:
    """Takes tasks, gives events."""

    def __init__(self, intake: Intake, text_bytes: Callable[[int], bytes], engine: Engine) -> None:
        self._intake = intake
        self._text_bytes = text_bytes
        self._engine = engine
        self._generations: dict[Answer, Generation] = {}
        self._loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[str] = self._loop.create_future()

    @property
    def occupancy(self) -> Occupancy:
        """How busy the engine is."""
        return self._engine.occupancy

    async def generate(self, task: Task, send: Send | None = None) -> AsyncGenerator[Event, None]:
        """The events of one answer, without the tokens that `send` took from the engine's thread.

        Closing the iterator cancels it.
        """
        answer = Answer(task, self._text_bytes, time.time_ns())
        if answer.is_complete:
            for event in (answer.admit(time.time_ns(), 0), *answer.exhausted(time.time_ns())):
                yield event
            return
        generation = self._generations[answer] = Generation(send)
        try:
            left = self._intake.offer(answer)
            if left is not None:
                self._refuse(*left)
            while True:
                yield (event := await generation.take())
                if isinstance(event, Finished):
                    return
        finally:
            answer.is_cancelled = True
            del self._generations[answer]

    def close(self) -> None:
        """Takes no more tasks; the engine ends after its step and fails what is left."""
        self._intake.close(UNLOADED)

    async def broken(self) -> str:
        """Returns when the engine can do no more, and says why."""
        return await asyncio.shield(self._broken)

    def break_off(self, reason: str) -> None:
        """Notes that the engine can do no more; on the event loop."""
        self._broken.set_result(reason)

    def post(self, mail: Mail) -> None:
        """Hands events to those who still wait for them; on the engine's thread."""
        left: Left = []
        for answer, event in mail:
            generation = self._generations.get(answer)
            if generation is not None and (rest := generation.shorten(event)) is not None:
                left.append((generation, rest))
        if left:
            self._loop.call_soon_threadsafe(_deliver, left)

    def _refuse(self, answer: Answer, error: RingmeshError) -> None:
        generation = self._generations.get(answer)
        if generation is not None:
            generation.put(error)


def _deliver(left: Left) -> None:
    for generation, event in left:
        generation.put(event)


@asynccontextmanager
async def open_scheduler(
    backend: SlotBackend,
    text_bytes: Callable[[int], bytes],
    *,
    chunk_tokens: int,
    max_queue: int,
    meter: EngineMeter = UNMETERED,
    keep_off: Callable[[int], None] | None = None,
) -> AsyncIterator[Scheduler]:
    """Runs an engine on the backend in a thread of its own; answers left on exit fail.

    It tells `keep_off` on which core that runs.
    """
    loop = asyncio.get_running_loop()
    intake = Intake(max_queue, time.monotonic)

    def deliver(mail: Mail) -> None:
        scheduler.post(mail)

    def on_broken(reason: str) -> None:
        loop.call_soon_threadsafe(scheduler.break_off, reason)

    engine = Engine(
        backend,
        intake,
        chunk_tokens=chunk_tokens,
        deliver=deliver,
        on_broken=on_broken,
        meter=meter,
        keep_off=keep_off,
    )
    scheduler = Scheduler(intake, text_bytes, engine)
    thread = threading.Thread(target=engine.run, name="llm-engine", daemon=True)
    thread.start()
    try:
        yield scheduler
    finally:
        scheduler.close()
        await asyncio.to_thread(thread.join)
