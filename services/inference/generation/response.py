"""The events of a generation as messages. Pure."""

from __future__ import annotations

from functools import lru_cache

from mesh.pb import node_pb2
from services.inference.llm.request import Delta, Finished, FinishReason, Started
from services.inference.llm.sampling import Logprob
from services.inference.llm.vocabulary import Vocabulary

KEPT_MESSAGES = 8192
"""Of single tokens: what models say most, in some megabytes."""
_LONGEST_KEPT = 64
"""In characters; with stop strings, much text may wait for one token."""

_FINISH_REASON = {
    FinishReason.STOP: node_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: node_pb2.FINISH_REASON_LENGTH,
}


def write_started(event: Started, node: str, version: int) -> node_pb2.GenerateResponse:
    """The first message: who answers."""
    started = node_pb2.Started(
        model_version=str(version),
        node=node,
        prompt_tokens=event.prompt_tokens,
        cached_tokens=event.cached_tokens,
    )
    return node_pb2.GenerateResponse(started=started)


def write_delta(event: Delta, vocabulary: Vocabulary) -> node_pb2.GenerateResponse:
    """Tokens and text. Filled in field by field: less than half as dear as by constructors."""
    response = node_pb2.GenerateResponse()
    delta = response.delta
    delta.text = event.text
    delta.token_ids.extend(event.token_ids)
    if event.logprobs:
        delta.logprobs.extend(_logprob(entry, vocabulary) for entry in event.logprobs)
    return response


def delta_bytes(event: Delta, vocabulary: Vocabulary) -> bytes:
    """The same as it goes on the wire; tokens come again and again, so most are made already."""
    if event.logprobs or len(event.token_ids) != 1 or len(event.text) > _LONGEST_KEPT:
        return write_delta(event, vocabulary).SerializeToString()
    return _token_bytes(event.token_ids[0], event.text)


@lru_cache(maxsize=KEPT_MESSAGES)
def _token_bytes(token: int, text: str) -> bytes:
    delta = node_pb2.Delta(text=text, token_ids=(token,))
    return node_pb2.GenerateResponse(delta=delta).SerializeToString()


def write_finished(event: Finished) -> node_pb2.GenerateResponse:
    """The last message."""
    finished = node_pb2.Finished(
        reason=_FINISH_REASON[event.reason],
        prompt_tokens=event.prompt_tokens,
        completion_tokens=event.completion_tokens,
        timing=node_pb2.Timing(
            queue_us=event.queue_us, prefill_us=event.prefill_us, decode_us=event.decode_us
        ),
    )
    return node_pb2.GenerateResponse(finished=finished)


def _logprob(entry: Logprob, vocabulary: Vocabulary) -> node_pb2.TokenLogprob:
    def one(token: int, logprob: float) -> node_pb2.TokenLogprob:
        name = vocabulary.name_bytes(token)
        return node_pb2.TokenLogprob(token_id=token, token=name, logprob=logprob)

    message = one(entry.token, entry.logprob)
    message.top.extend(one(token, logprob) for token, logprob in entry.top)
    return message
