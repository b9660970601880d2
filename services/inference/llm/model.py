"""A language model that is loaded and answers: text in front of the scheduler, events behind it.

Requests are checked here, against the model; the scheduler below sees only tokens. How a model
comes to be loaded is the business of `opening`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime

from mesh.errors import InvalidArgument
from services.inference.backends.backend import Device
from services.inference.backends.pending import Pending
from services.inference.llm.answer import Task
from services.inference.llm.architecture import TextRules
from services.inference.llm.chat_template import ChatTemplate
from services.inference.llm.constraint import Matcher
from services.inference.llm.engine import Occupancy
from services.inference.llm.grammar import GrammarCompiler
from services.inference.llm.metrics import RequestMeter
from services.inference.llm.request import (
    Delta,
    Event,
    Finished,
    GenerationRequest,
    SamplingRequest,
    Started,
    check_limits,
    decide_sampling,
)
from services.inference.llm.scheduler import Scheduler
from services.inference.llm.shortcut import CountedShortcut, Shortcut
from services.inference.llm.slot_backend import SlotBackend
from services.inference.llm.vocabulary import Vocabulary

# Longer texts are encoded beside the event loop: 10 kB take about 3 ms.
_LONG_TEXT_CHARACTERS = 4096
_LARGEST_SEED = 2**64


@dataclass(frozen=True, slots=True)
class Text:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    started: Started
    finished: Finished


class LoadedLanguageModel:
    """One version of a language model, ready to answer."""

    def __init__(
        self,
        name: str,
        version: int,
        *,
        rules: TextRules,
        vocabulary: Vocabulary,
        backend: SlotBackend,
        scheduler: Scheduler,
        meter: Callable[[int], RequestMeter],
        lifetime: AsyncExitStack,
        remark: str = "",
        device: Device = Device.CPU,
        pending: Pending | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.remark = remark
        self.device = device
        self.pending = pending
        self.vocabulary = vocabulary
        self._rules = rules
        self._template = ChatTemplate(rules, datetime.now)
        self._grammars = GrammarCompiler(vocabulary, rules.end_ids)
        self._backend = backend
        self._scheduler = scheduler
        self._meter = meter
        self._lifetime = lifetime

    def __repr__(self) -> str:
        return f"<LoadedLanguageModel {self.name}@{self.version} on {self.backend}>"

    @property
    def backend(self) -> str:
        """The engine it runs on."""
        return self._backend.name

    @property
    def memory_bytes(self) -> int:
        """What weights and slots take when all slots are full."""
        return self._backend.memory_bytes

    @property
    def context_tokens(self) -> int:
        """How many tokens prompt and answer may have together."""
        return self._backend.context_tokens

    @property
    def occupancy(self) -> Occupancy:
        """How busy it is."""
        return self._scheduler.occupancy

    async def generate(
        self, request: GenerationRequest, shortcut: Shortcut | None = None
    ) -> AsyncGenerator[Event, None]:
        """Started, any number of Delta, one Finished. Close the iterator to cancel.

        Tokens that the shortcut takes do not come by the iterator; the order is kept. It is used on
        the engine's thread, while the iterator is waited for.

        Raises:
            InvalidArgument: a field of the request is wrong; nothing has been done.
            QueueFull: too many requests wait already.
            DeadlineTooShort: the request's turn would come too late.
            DeadlineExceeded: the deadline passed.
        """
        see = self._meter(time.time_ns()).see
        task = await self._task(request)
        short = None if shortcut is None else CountedShortcut(shortcut, see)
        with contextlib.ExitStack() as at_last:
            if short is not None:
                at_last.callback(short.settle)
            sending = self._scheduler.generate(task, None if short is None else short.send)
            async with contextlib.aclosing(sending) as events:
                async for event in events:
                    if short is not None:
                        short.settle()
                    see(event)
                    yield event

    async def generate_text(self, request: GenerationRequest) -> Text:
        """The whole answer at once."""
        parts: list[Delta] = []
        started: Started | None = None
        async with contextlib.aclosing(self.generate(request)) as events:
            async for event in events:
                match event:
                    case Started():
                        started = event
                    case Delta():
                        parts.append(event)
                    case Finished() if started is not None:
                        tokens = tuple(token for part in parts for token in part.token_ids)
                        return Text("".join(p.text for p in parts), tokens, started, event)
        raise AssertionError("a generation ends with Finished or an error")

    async def warm_up(self) -> None:
        """Runs prefill and decode once, so that the first caller does not pay for it."""
        greedy = SamplingRequest(temperature=0)
        prompt = tuple(self.vocabulary.encode("Hello")) * 2
        request = GenerationRequest(prompt, greedy, max_tokens=4, ignore_eos=True)
        task = await self._task(request)
        # Not by `generate`: it would count among the callers' requests.
        async with contextlib.aclosing(self._scheduler.generate(task)) as events:
            async for _ in events:
                pass

    async def broken(self) -> str:
        """Returns when the engine can do no more, and says why."""
        return await self._scheduler.broken()

    async def close(self) -> None:
        """Ends what is running and frees the memory."""
        await self._lifetime.aclose()

    async def _task(self, request: GenerationRequest) -> Task:
        deadline_s = None if request.timeout_s is None else time.monotonic() + request.timeout_s
        check_limits(request)
        seed = secrets.randbelow(_LARGEST_SEED)
        sampling = decide_sampling(request.sampling, self._rules.sampling, seed)
        prompt = await self._prompt(request)
        room = self.context_tokens - len(prompt)
        self._check_resumed(request.resume_token_ids, room)
        matcher = await self._matcher(request)
        return Task(
            prompt=prompt,
            resumed=request.resume_token_ids,
            limit=min(room, request.max_tokens or room),
            sampling=sampling,
            stop=request.stop,
            end_ids=frozenset() if request.ignore_eos else self._rules.end_ids,
            logprobs=request.logprobs,
            deadline_s=deadline_s,
            session=request.session,
            priority=request.priority,
            matcher=matcher,
        )

    async def _matcher(self, request: GenerationRequest) -> Matcher | None:
        if request.constraint is None:
            return None
        return await self._grammars.matcher(
            request.constraint, request.resume_token_ids, ignore_end=request.ignore_eos
        )

    async def _prompt(self, request: GenerationRequest) -> tuple[int, ...]:
        if isinstance(request.prompt, str):
            prompt = self._begin(await self._encode(request.prompt))
        elif not request.prompt:
            raise InvalidArgument("the prompt is empty", field="prompt")
        elif isinstance(request.prompt[0], int):
            prompt = request.prompt
            self._check_length(len(prompt))  # first: what cannot fit is not looked at one by one
            self._check_ids(prompt, "prompt")
        else:
            prompt = await self._encode(self._template.render(request.prompt))
        if not prompt:
            raise InvalidArgument("the prompt is empty", field="prompt")
        self._check_length(len(prompt))
        return prompt

    async def _encode(self, text: str) -> tuple[int, ...]:
        # No token is longer than this, so a longer text cannot fit; do not even encode it.
        most = self.context_tokens * self.vocabulary.longest_token
        if len(text) > most:
            self._check_length(len(text) // self.vocabulary.longest_token)
        if len(text) <= _LONG_TEXT_CHARACTERS:
            return tuple(self.vocabulary.encode(text))
        return tuple(await asyncio.to_thread(self.vocabulary.encode, text))

    def _begin(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        if self._rules.add_bos and self._rules.bos_id is not None:
            return (self._rules.bos_id, *ids)
        return ids

    def _check_resumed(self, ids: tuple[int, ...], room: int) -> None:
        if len(ids) > room:
            raise InvalidArgument(
                f"resume_token_ids has {len(ids)} tokens; behind the prompt, the context of "
                f"{self.name} takes {room}",
                field="resume_token_ids",
            )
        self._check_ids(ids, "resume_token_ids")

    def _check_ids(self, ids: tuple[int, ...], field: str) -> None:
        wrong = next((i for i in ids if not 0 <= i < len(self.vocabulary)), None)
        if wrong is not None:
            raise InvalidArgument(
                f"token id {wrong} is outside the vocabulary of {len(self.vocabulary)}", field=field
            )

    def _check_length(self, tokens: int) -> None:
        if tokens >= self.context_tokens:
            raise InvalidArgument(
                f"the prompt has {tokens} tokens or more; with room for an answer, the context "
                f"of {self.name} takes {self.context_tokens - 1}",
                field="prompt",
            )
