"""The HTTP application: a table of routes, and a clear answer to whatever is not in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import Histogram
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from mesh.errors import NotFound
from mesh.telemetry import Telemetry
from services.gateway.http.endpoint import Endpoint
from services.gateway.http.exchange import ErrorRenderer, Exchange, Handler, Routes

METHOD_NOT_ALLOWED = 405


class MethodNotAllowed(NotFound):
    """The path exists, but not for this method; only HTTP has a code for it."""

    reason = "METHOD_NOT_ALLOWED"


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol's routes (method, path, handler), its prefix, and how it shows an error."""

    prefix: str
    routes: Routes
    render_error: ErrorRenderer


def build_app(
    protocols: Iterable[Protocol], telemetry: Telemetry, *, max_body_bytes: int
) -> ASGIApp:
    """The application; what belongs to no protocol is refused as the first would."""
    protocols = tuple(protocols)
    duration = Histogram(
        "http_server_request_duration_seconds",
        "Duration of HTTP requests, streams to their end; status 0 where the client left first.",
        ["route", "status"],
        registry=telemetry.metrics,
    )

    def endpoint(route: str, handler: Handler, protocol: Protocol) -> Endpoint:
        return Endpoint(
            route, handler, protocol.render_error, telemetry.tracer, duration, max_body_bytes
        )

    routes = []
    for protocol in protocols:
        methods: dict[str, dict[str, ASGIApp]] = defaultdict(dict)
        for method, path, handler in protocol.routes:
            methods[path][method] = endpoint(path, handler, protocol)
        for path, table in methods.items():
            refuse = endpoint(path, _method_refuser(protocol, table), protocol)
            routes.append(Route(path, _ByMethod(table, refuse)))
    unknown = {p.prefix: endpoint("unknown", _unknown_path, p) for p in protocols}
    default = _ByPrefix(unknown, endpoint("unknown", _unknown_path, protocols[0]))
    return Router(routes, redirect_slashes=False, default=default)


@dataclass(frozen=True, slots=True)
class _ByMethod:
    table: Mapping[str, ASGIApp]
    refuse: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self.table.get(method, self.refuse)(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _ByPrefix:
    table: Mapping[str, ASGIApp]
    default: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        found = (app for prefix, app in self.table.items() if path.startswith(prefix))
        await next(found, self.default)(scope, receive, send)


def _method_refuser(protocol: Protocol, table: Mapping[str, ASGIApp]) -> Handler:
    async def refuse(exchange: Exchange) -> Response:
        del exchange
        allowed = ", ".join(sorted(table))
        response = protocol.render_error(MethodNotAllowed(f"this path takes only {allowed}"))
        response.status_code = METHOD_NOT_ALLOWED
        response.headers["allow"] = allowed
        return response

    return refuse


async def _unknown_path(exchange: Exchange) -> Response:
    raise NotFound(f"there is nothing at {exchange.url_path[:200]!r}")
