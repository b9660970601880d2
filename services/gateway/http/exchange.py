"""One HTTP request as a handler sees it: already read, bounded, and joined to its trace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from opentelemetry.trace import Span
from starlette.responses import Response

from mesh.errors import RingmeshError
from services.gateway.caller import Caller


@dataclass(frozen=True, slots=True)
class Exchange:
    """`headers` have lower-case names; `path` holds the parts of the path that the route names."""

    url_path: str
    path: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    caller: Caller
    span: Span


Handler = Callable[[Exchange], Awaitable[Response]]
Routes = tuple[tuple[str, str, Handler], ...]
"""Method, path and handler of each route."""

ErrorRenderer = Callable[[RingmeshError], Response]
