"""One answer in the making: from logits to tokens, text and an end.

It belongs to the engine's thread from the moment it is admitted. It knows nothing of slots, batches
or other answers, which is why batching cannot change it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mesh.errors import RingmeshError
from services.inference.llm.constraint import Matcher
from services.inference.llm.request import Delta, Event, Finished, FinishReason, Started
from services.inference.llm.sampling import History, Logprob, Sampling, choose, logprob_of
from services.inference.llm.text_stream import TextStream


@dataclass(frozen=True, slots=True)
class Task:
    """A request in terms of tokens, every choice made.

    `resumed` are tokens of the answer that were delivered before; `limit` counts them too.
    `logprobs` is the number of alternatives, or None for no log probabilities at all.
    `deadline_s` is on the monotonic clock. `session` and `priority` decide whose turn it is.
    `matcher`, if the text is to have a form, is this task's own and has taken the resumed tokens.
    """

    prompt: tuple[int, ...]
    resumed: tuple[int, ...]
    limit: int
    sampling: Sampling
    stop: tuple[str, ...]
    end_ids: frozenset[int]
    logprobs: int | None
    deadline_s: float | None
    session: str | None = None
    priority: int = 0
    matcher: Matcher | None = None


class Answer:
    """The state of one answer."""

    def __init__(self, task: Task, text_bytes: Callable[[int], bytes], now_ns: int) -> None:
        self.task = task
        self.is_cancelled = False
        self.has_yielded = False
        self.last_token = 0
        self._text_bytes = text_bytes
        self._is_remembering = task.sampling.has_penalties
        self._history = History.of(task.prompt if self._is_remembering else ())
        self._stream = TextStream(task.stop)
        self._stream.feed(b"".join(map(text_bytes, task.resumed)))
        self._tokens: list[int] = []
        self._again: deque[int] = deque()
        # Tokens that were delivered before are decoded again, not prefilled: a run of many tokens
        # goes through other kernels, whose last bits would lead the rest of the answer astray.
        self._replay = deque(task.resumed)
        self._submitted_ns = now_ns
        self._admitted_ns = now_ns
        self._first_token_ns = 0
        self._largest_batch = 1

    def is_late(self, now_s: float) -> bool:
        """Whether nobody waits any more."""
        return self.task.deadline_s is not None and now_s >= self.task.deadline_s

    @property
    def is_complete(self) -> bool:
        """Whether what was delivered before is all there will be."""
        return len(self.task.resumed) >= self.task.limit or self._is_whole

    @property
    def _is_whole(self) -> bool:
        """Whether a stop string has come, or all of the form that was asked for."""
        matcher = self.task.matcher
        return self._stream.is_stopped or (matcher is not None and matcher.is_finished)

    def admit(self, now_ns: int, reused: int) -> Started:
        """The answer has got a slot, `reused` of whose positions it need not compute."""
        self._admitted_ns = now_ns
        size = len(self.task.prompt)
        return Started(now_ns, prompt_tokens=size, cached_tokens=min(reused, size))

    def give_way(self) -> None:
        """The slot is lost. In another one, the tokens so far are decoded again, and said once."""
        self.has_yielded = True
        self._again = deque(self._tokens)

    def accept(
        self, logits: NDArray[np.float32], batch: int, now_ns: int
    ) -> tuple[Event | RingmeshError, ...]:
        """Chooses the next token; the events that follow from it.

        None follow from a token that was delivered before; after `Finished` or an error, none
        will.
        """
        self._first_token_ns = self._first_token_ns or now_ns
        self._largest_batch = max(self._largest_batch, batch)
        if self._again:
            self.last_token = self._again.popleft()
            return ()
        if self._replay:
            self._note(self._replay.popleft())
            return ()
        try:
            return self._go_on(logits, now_ns)
        except RingmeshError as error:  # what the caller asked for has become too complex to follow
            return (error,)

    def _go_on(self, logits: NDArray[np.float32], now_ns: int) -> tuple[Event, ...]:
        matcher = self.task.matcher
        allowed = None if matcher is None else matcher.allowed()
        if allowed is not None and len(allowed) == 0:
            return self._end(now_ns, FinishReason.STOP)
        token = choose(logits, self.task.sampling, self._history, len(self._tokens), allowed)
        if token in self.task.end_ids:
            return self._end(now_ns, FinishReason.STOP)
        if matcher is not None:
            matcher.take(token)
        self._note(token)
        text = self._stream.feed(self._text_bytes(token))
        reason = self._reason()
        if reason is not None:
            text += self._stream.finish()
        delta = Delta(now_ns, text, (token,), self._logprobs(logits, token, allowed))
        return (delta,) if reason is None else (delta, self._finished(now_ns, reason))

    def _note(self, token: int) -> None:
        """Adds a token; the text of those delivered before is known from the start."""
        if self._is_remembering:
            self._history.add(token)
        self._tokens.append(token)
        self.last_token = token

    def exhausted(self, now_ns: int) -> tuple[Event, ...]:
        """The events of an answer that has no token left to make; the last one told all text."""
        while self._replay:
            self._note(self._replay.popleft())
        reason = FinishReason.STOP if self._is_whole else FinishReason.LENGTH
        return (self._finished(now_ns, reason),)

    def _reason(self) -> FinishReason | None:
        if self._is_whole:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self._tokens) >= self.task.limit else None

    def _logprobs(
        self, logits: NDArray[np.float32], token: int, allowed: NDArray[np.int64] | None
    ) -> tuple[Logprob, ...]:
        alternatives = self.task.logprobs
        return () if alternatives is None else (logprob_of(logits, token, alternatives, allowed),)

    def _end(self, now_ns: int, reason: FinishReason) -> tuple[Event, ...]:
        text = self._stream.finish()
        finished = self._finished(now_ns, reason)
        return (Delta(now_ns, text, ()), finished) if text else (finished,)

    def _finished(self, now_ns: int, reason: FinishReason) -> Finished:
        first_ns = self._first_token_ns or self._admitted_ns
        return Finished(
            at_ns=now_ns,
            reason=reason,
            prompt_tokens=len(self.task.prompt),
            completion_tokens=len(self._tokens),
            queue_us=(self._admitted_ns - self._submitted_ns) // 1000,
            prefill_us=(first_ns - self._admitted_ns) // 1000,
            decode_us=(now_ns - first_ns) // 1000,
            largest_batch=self._largest_batch,
        )
