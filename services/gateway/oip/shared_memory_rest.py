"""The system shared memory extension over REST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from mesh.errors import InvalidArgument
from services.gateway.http.exchange import Exchange, Routes
from services.gateway.http.json import json_response, parse_json
from services.gateway.shared_memory import SharedMemory

_PREFIX = "/v2/systemsharedmemory"
_REGION = _PREFIX + "/region/{region}"


@dataclass(frozen=True, slots=True)
class SharedMemoryRest:
    """The handlers; `routes` lists them with their method and path."""

    memory: SharedMemory

    def routes(self) -> Routes:
        """Method, path and handler of every route."""
        return (
            ("GET", f"{_PREFIX}/status", self.status),
            ("GET", f"{_REGION}/status", self.status),
            ("POST", f"{_REGION}/register", self.register),
            ("POST", f"{_PREFIX}/unregister", self.unregister),
            ("POST", f"{_REGION}/unregister", self.unregister),
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


def _count(name: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise InvalidArgument(f"{name} must be a number of bytes", field=name)
    return value
