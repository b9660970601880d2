"""POST /v1/chat/completions and /v1/completions: a request in, an answer or its chunks out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from opentelemetry.trace import Span
from starlette.responses import Response

from mesh.pb.node_pb2 import ChatMessage, ChatPrompt, GenerateRequest, TokenIds
from mesh.reference import ModelReference
from mesh.text_inference import DEFAULT_MAX_TOKENS
from services.gateway.affinity import affinity_key, chat_head, text_head, token_head
from services.gateway.generation import Choice, TextGeneration, read_all, spread_seeds
from services.gateway.http.event_stream import EventStream
from services.gateway.http.exchange import Exchange
from services.gateway.http.json import json_response
from services.gateway.openai.answer import AnswerForm
from services.gateway.openai.constraint import ConstraintFields, asked_constraint
from services.gateway.openai.error import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    in_words_of,
    read_request,
)
from services.gateway.openai.refusal import check_chat, check_completion
from services.gateway.openai.request import ChatRequest, CompletionRequest
from services.gateway.openai.streaming import stream_choices
from services.gateway.openai.usage import (
    count_usage,
    finish_reason,
    record_request,
    record_usage,
)

_ID_PREFIX = {"chat": "chatcmpl-", "text": "cmpl-"}


@dataclass(frozen=True, slots=True)
class TextRest:
    """The two routes that generate text."""

    generation: TextGeneration

    async def chat(self, exchange: Exchange) -> Response:
        """A conversation, continued."""
        request = read_request(ChatRequest, exchange.body)
        check_chat(request)
        record_request(exchange.span, "chat", request.model)
        reference = self.generation.find(request.model)
        key = affinity_key(
            conversation=request.conversation_key,
            user=request.user,
            prompt_head=chat_head([(m.node_role, m.content) for m in request.messages]),
        )
        prompts = spread_seeds(chat_generation(request, reference), request.choices)
        with in_words_of({**CHAT_FIELDS, **_constraint_field(request)}):
            choices = await self.generation.begin(reference, prompts, exchange.caller, key)
        form = _form("chat", request.model, reference, choices, request.logprobs is True)
        return await _respond(request, choices, form, exchange.span)

    async def completions(self, exchange: Exchange) -> Response:
        """A text, continued."""
        request = read_request(CompletionRequest, exchange.body)
        check_completion(request)
        record_request(exchange.span, "text_completion", request.model)
        reference = self.generation.find(request.model)
        first = request.prompt[0]
        key = affinity_key(
            conversation=request.conversation_key,
            user=request.user,
            prompt_head=text_head(first) if isinstance(first, str) else token_head(first),
        )
        prompts = list(completion_generations(request, reference))
        with in_words_of({**COMPLETION_FIELDS, **_constraint_field(request)}):
            choices = await self.generation.begin(reference, prompts, exchange.caller, key)
        form = _form("text", request.model, reference, choices, request.logprobs is not None)
        return await _respond(request, choices, form, exchange.span)


def chat_generation(request: ChatRequest, reference: ModelReference) -> GenerateRequest:
    """The node's request for a chat."""
    message = _generation(request, reference)
    prompt = ChatPrompt()
    for each in request.messages:
        prompt.messages.append(
            ChatMessage(role=each.node_role, content=each.content, name=each.name or "")
        )
    message.chat.CopyFrom(prompt)
    if request.token_limit is not None:
        message.max_tokens = request.token_limit
    if request.node_logprobs is not None:
        message.logprobs = request.node_logprobs
    return message


def completion_generations(
    request: CompletionRequest, reference: ModelReference
) -> Iterator[GenerateRequest]:
    """The node's requests: the choices of the first prompt, then those of the second, ..."""
    for prompt in request.prompt:
        message = _generation(request, reference)
        if isinstance(prompt, str):
            message.text = prompt
        else:
            message.token_ids.CopyFrom(TokenIds(ids=prompt))
        message.max_tokens = request.max_tokens or DEFAULT_MAX_TOKENS
        if request.logprobs is not None:
            message.logprobs = request.logprobs
        yield from spread_seeds(message, request.choices)


def _generation(
    request: ChatRequest | CompletionRequest, reference: ModelReference
) -> GenerateRequest:
    message = GenerateRequest(
        model_name=reference.name,
        model_version="" if reference.version is None else str(reference.version),
        request_id=secrets.token_hex(12),
        sampling=request.sampling(),
        stop=request.stop,
        ignore_eos=request.ignore_eos,
        priority=request.priority,
    )
    asked = asked_constraint(request)
    if asked is not None:
        asked.apply(message)
    return message


def _constraint_field(request: ConstraintFields) -> dict[str, str]:
    """What the caller called the form that the node may refuse."""
    asked = asked_constraint(request)
    return {} if asked is None else {asked.kind: asked.field}


def _form(
    kind: Literal["chat", "text"],
    model: str,
    reference: ModelReference,
    choices: tuple[Choice, ...],
    wants_logprobs: bool,
) -> AnswerForm:
    return AnswerForm(
        kind=kind,
        id=_ID_PREFIX[kind] + secrets.token_hex(12),
        created=int(time.time()),
        model=model,
        fingerprint=f"{reference.name}@{choices[0].started.model_version}",
        wants_logprobs=wants_logprobs,
    )


async def _respond(
    request: ChatRequest | CompletionRequest,
    choices: tuple[Choice, ...],
    form: AnswerForm,
    span: Span,
) -> Response:
    started = choices[0].started
    headers = {"x-ringmesh-node": started.node, "x-ringmesh-version": started.model_version}
    span.set_attribute("gen_ai.response.model", form.fingerprint)
    if request.stream:
        events = stream_choices(
            choices, form, span, per_prompt=request.choices, with_usage=request.wants_usage
        )
        return EventStream(events, headers)
    finishes = await read_all(choices)
    finished = [finish.finished for finish in finishes]
    usage = count_usage(choices, finished, per_prompt=request.choices)
    record_usage(span, usage, list(map(finish_reason, finished)))
    return json_response(form.whole(finishes, usage), headers=headers)
