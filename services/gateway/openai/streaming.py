"""Turns the events of begun generations into a stream of server-sent events.

A failure on the way is told in the stream, as an event with `error`, and the stream ends without
`[DONE]`: whoever reads it knows that the text is not whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from opentelemetry.trace import Span, Status, StatusCode

from mesh.errors import RingmeshError
from mesh.logs import get_logger
from mesh.pb.node_pb2 import Finished, GenerateResponse
from services.gateway.generation import Choice, close_all, merge
from services.gateway.http.event_stream import DONE, frame
from services.gateway.http.json import dump_json
from services.gateway.openai.answer import AnswerForm, ChunkWriter
from services.gateway.openai.error import error_body
from services.gateway.openai.usage import count_usage, finish_reason, record_usage

_log = get_logger(__name__)


async def stream_choices(
    choices: Sequence[Choice], form: AnswerForm, span: Span, *, per_prompt: int, with_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The events of a whole stream, framed."""
    writers = [ChunkWriter(form, choice.index, with_usage=with_usage) for choice in choices]
    finished: dict[int, Finished] = {}
    try:
        if form.kind == "chat":
            yield b"".join(writer.role() for writer in writers)
        async with aclosing(merge(choices)) as events:
            async for index, event in events:
                if event.HasField("finished"):
                    finished[index] = event.finished
                    yield writers[index].finish(finish_reason(event.finished))
                elif (piece := _piece(writers[index], event)) is not None:
                    yield piece
    except RingmeshError as error:
        _log.warning("stream ended by an error", reason=error.reason, error=error.message)
        span.set_status(Status(StatusCode.ERROR))
        span.set_attribute("error.type", error.reason)
        yield frame(dump_json(error_body(error)))
        return
    finally:
        await close_all(choices)
    usage = count_usage(choices, finished.values(), per_prompt=per_prompt)
    record_usage(span, usage, [finish_reason(finished[index]) for index in sorted(finished)])
    if with_usage:
        yield frame(form.chunk([], usage.to_json()))
    yield DONE


def _piece(writer: ChunkWriter, event: GenerateResponse) -> bytes | None:
    delta = event.delta
    if delta.logprobs:
        return writer.text(delta.text, delta.logprobs)
    # A token may add no text yet: half a character, or what could become a stop string.
    return writer.text(delta.text) if delta.text else None
