"""Server-sent events: the response, and how one event is framed.

The response is thinner than a general streaming response, because it runs once per token: it awaits
one piece and sends it. Watching for the client to leave is the endpoint's work.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

DONE: Final = b"data: [DONE]\n\n"


def frame(data: bytes) -> bytes:
    """One event; `data` is JSON and so has no raw line break."""
    return b"data: " + data + b"\n\n"


class EventStream(Response):
    """Sends already framed events as they come."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", **(headers or {})})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends every event; the client's leaving cancels this."""
        del scope, receive
        async with aclosing(self._events) as events:
            # A generator that never began could not clean up: begin it before the first send.
            first = await anext(events)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
