"""The shared memory extensions over REST: the system's, and a plain no to CUDA's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from mesh.errors import InvalidArgument, Unimplemented
from services.gateway.http.exchange import Exchange, Handler, Routes
from services.gateway.http.json import json_response, parse_json
from services.gateway.shared_memory import SharedMemory

_SYSTEM = "/v2/systemsharedmemory"
_CUDA = "/v2/cudasharedmemory"


@dataclass(frozen=True, slots=True)
class SharedMemoryRest:
    """The handlers; `routes` lists them with their method and path."""

    memory: SharedMemory

    def routes(self) -> Routes:
        """Method, path and handler of every route."""
        return (
            *_routes(_SYSTEM, self.status, self.register, self.unregister),
            *_routes(_CUDA, refuse_cuda, refuse_cuda, refuse_cuda),
        )

    async def status(self, exchange: Exchange) -> Response:
        """What is registered."""
        found = self.memory.status(exchange.path.get("region", ""), exchange.caller)
        return json_response(
            [
                {
                    "name": each.name,
                    "key": each.key,
                    "offset": each.offset,
                    "byte_size": each.byte_size,
                }
                for each in found.values()
            ]
        )

    async def register(self, exchange: Exchange) -> Response:
        """Makes a part of a shared memory object known."""
        asked = parse_json(exchange.body)
        if not isinstance(asked, dict):
            raise InvalidArgument("the body must be a JSON object", field="body")
        key = asked.get("key")
        if not isinstance(key, str):
            raise InvalidArgument("key must be a string", field="key")
        offset, size = (
            _count("offset", asked.get("offset", 0)),
            _count("byte_size", asked.get("byte_size")),
        )
        self.memory.register(exchange.path["region"], key, offset, size, exchange.caller)
        return Response(status_code=200)

    async def unregister(self, exchange: Exchange) -> Response:
        """Forgets one region, or all."""
        self.memory.unregister(exchange.path.get("region", ""), exchange.caller)
        return Response(status_code=200)


async def refuse_cuda(exchange: Exchange) -> Response:
    """Gateways have no GPU whose memory a caller could share."""
    del exchange
    raise Unimplemented("CUDA shared memory is not offered by this server; system shared memory is")


def _routes(prefix: str, status: Handler, register: Handler, unregister: Handler) -> Routes:
    region = prefix + "/region/{region}"
    return (
        ("GET", f"{prefix}/status", status),
        ("GET", f"{region}/status", status),
        ("POST", f"{region}/register", register),
        ("POST", f"{prefix}/unregister", unregister),
        ("POST", f"{region}/unregister", unregister),
    )


def _count(name: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise InvalidArgument(f"{name} must be a number of bytes", field=name)
    return value
