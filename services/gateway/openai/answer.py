"""Answers in OpenAI's shapes: whole ones, and the chunks of a stream. Pure.

A chunk is made once per token, so everything in it but the text is encoded beforehand. The text is
escaped to ASCII: readers that split a stream at any of Unicode's line breaks are common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, Literal

from mesh.pb.node_pb2 import TokenLogprob
from services.gateway.generation import Finish
from services.gateway.http.event_stream import frame
from services.gateway.http.json import dump_json
from services.gateway.openai.logprob import TextOffsets, chat_logprobs, completion_logprobs
from services.gateway.openai.usage import Usage, finish_reason

_TEXT_MARK = "\0text\0"


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What all parts of one answer share, and which of the two protocols it is in."""

    kind: Literal["chat", "text"]
    id: str
    created: int
    model: str
    fingerprint: str
    wants_logprobs: bool

    def whole(self, finishes: Sequence[Finish], usage: Usage) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        choices = [self._whole_choice(index, finish) for index, finish in enumerate(finishes)]
        return self._head(name) | {"choices": choices, "usage": usage.to_json()}

    def chunk(self, choices: Sequence[Mapping[str, Any]], usage: Any = ...) -> bytes:
        """One event of a stream; `usage` is left out unless given."""
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        extra = {} if usage is ... else {"usage": usage}
        return dump_json(self._head(name) | {"choices": choices} | extra)

    def _head(self, name: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": name,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _whole_choice(self, index: int, finish: Finish) -> dict[str, Any]:
        content: dict[str, Any] = {"text": finish.text}
        if self.kind == "chat":
            message = {"role": "assistant", "content": finish.text, "refusal": None}
            content = {"message": message}
        return {
            "index": index,
            **content,
            "logprobs": self.logprobs(finish.logprobs, TextOffsets()),
            "finish_reason": finish_reason(finish.finished),
        }

    def logprobs(
        self, tokens: Sequence[TokenLogprob], offsets: TextOffsets
    ) -> dict[str, Any] | None:
        """The log probabilities of these tokens, None where none were asked for."""
        if not self.wants_logprobs:
            return None
        if self.kind == "chat":
            return chat_logprobs(tokens)
        return completion_logprobs(tokens, offsets)


class ChunkWriter:
    """The events of one choice of a stream."""

    def __init__(self, form: AnswerForm, index: int, *, with_usage: bool) -> None:
        self._form = form
        self._index = index
        # A stream that will end with its usage says null before, as OpenAI's does.
        self._usage: Any = None if with_usage else ...
        self._offsets = TextOffsets()
        template = frame(form.chunk([self._choice(_TEXT_MARK)], self._usage))
        self._before, self._after = template.split(dump_json(_TEXT_MARK))

    def role(self) -> bytes:
        """The first event of a chat."""
        choice = self._choice("")
        choice["delta"] = {"role": "assistant", "content": "", "refusal": None}
        return frame(self._form.chunk([choice], self._usage))

    def text(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        """Some more text."""
        if logprobs:
            return self._with_logprobs(text, logprobs)
        return self._before + encode_basestring_ascii(text).encode() + self._after

    def finish(self, reason: str) -> bytes:
        """The last event of this choice."""
        choice = self._choice("") | {"finish_reason": reason}
        if self._form.kind == "chat":
            choice["delta"] = {}
        return frame(self._form.chunk([choice], self._usage))

    def _with_logprobs(self, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        rendered = self._form.logprobs(logprobs, self._offsets)
        return frame(self._form.chunk([self._choice(text) | {"logprobs": rendered}], self._usage))

    def _choice(self, text: str) -> dict[str, Any]:
        is_chat = self._form.kind == "chat"
        content: dict[str, Any] = {"delta": {"content": text}} if is_chat else {"text": text}
        return {"index": self._index, **content, "logprobs": None, "finish_reason": None}
