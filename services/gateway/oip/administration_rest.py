"""The REST routes that concern the server and its models rather than an inference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from starlette.responses import Response

from mesh.errors import InvalidArgument
from mesh.pb import inference_pb2 as oip
from services.gateway.http.exchange import Exchange, Handler, Routes
from services.gateway.http.json import json_response, parse_json
from services.gateway.oip.config_json import message_to_json
from services.gateway.oip.setting import ServerSettings
from services.gateway.oip.shared_memory_rest import SharedMemoryRest
from services.gateway.oip.trace_setting import Settings
from services.gateway.repository import FleetRepository, NodeState
from services.gateway.shared_memory import SharedMemory


@dataclass(frozen=True, slots=True)
class AdministrationRest:
    """The handlers; `routes` lists them with their method and path."""

    repository: FleetRepository
    settings: ServerSettings
    memory: SharedMemory

    def routes(self) -> Routes:
        """Method, path and handler of every route."""
        return (
            *self._repository_routes("/v2/repository"),
            *self._repository_routes("/v2/repository/{repository}"),
            *_setting("/v2/trace/setting", self.show_trace, self.change_trace),
            *_setting("/v2/models/{model}/trace/setting", self.show_trace, self.change_trace),
            *_setting("/v2/logging", self.show_log, self.change_log),
            *SharedMemoryRest(self.memory).routes(),
        )

    def _repository_routes(self, prefix: str) -> Routes:
        return (
            ("POST", f"{prefix}/index", self.index),
            ("POST", f"{prefix}/models/{{model}}/load", self.load),
            ("POST", f"{prefix}/models/{{model}}/unload", self.unload),
        )

    async def index(self, exchange: Exchange) -> Response:
        """Every deployed version with its state, and beyond the protocol that on each node."""
        asked = _object(exchange)
        entries = await self.repository.entries(ready_only=asked.get("ready") is True)
        return json_response(
            [message_to_json(each.index) | {"nodes": _shown(each.nodes)} for each in entries]
        )

    async def load(self, exchange: Exchange) -> Response:
        """Loads what was unloaded by hand, on every node; answers with each node's state."""
        request = oip.RepositoryModelLoadRequest()
        _fill(request, exchange)
        return _told(await self.repository.load(request, exchange.caller))

    async def unload(self, exchange: Exchange) -> Response:
        """Takes a model out of service on every node; answers with each node's state."""
        request = oip.RepositoryModelUnloadRequest()
        _fill(request, exchange)
        return _told(await self.repository.unload(request, exchange.caller))

    async def show_trace(self, exchange: Exchange) -> Response:
        """Which traces are recorded."""
        return await self._trace({}, exchange)

    async def change_trace(self, exchange: Exchange) -> Response:
        """Which traces are recorded, once it is as the body says."""
        changes = {name: _texts(name, value) for name, value in _object(exchange).items()}
        return await self._trace(changes, exchange)

    async def _trace(self, changes: Settings, exchange: Exchange) -> Response:
        shown = await self.settings.trace(changes, exchange.path.get("model", ""))
        flat = {name: values[0] for name, values in shown.items()}
        return json_response({**flat, "trace_level": list(shown["trace_level"])})

    async def show_log(self, exchange: Exchange) -> Response:
        """What is logged."""
        del exchange
        return json_response(await self.settings.log({}))

    async def change_log(self, exchange: Exchange) -> Response:
        """What is logged, once it is as the body says."""
        return json_response(await self.settings.log(_object(exchange)))


def _setting(path: str, show: Handler, change: Handler) -> Routes:
    return (("GET", path, show), ("POST", path, change))


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """A trace setting's values; null clears it."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(each, str | int) for each in values):
        raise InvalidArgument(f"{name[:80]}: must be a string or a list of strings", field=name)
    return tuple(str(each) for each in values)


def _object(exchange: Exchange) -> dict[str, Any]:
    """The body: a JSON object, or nothing."""
    asked = parse_json(exchange.body) if exchange.body.strip() else {}
    if not isinstance(asked, dict):
        raise InvalidArgument("the body must be a JSON object", field="body")
    return asked


def _fill(request: Any, exchange: Exchange) -> None:
    """Reads model, repository and parameters; a parameter's name decides its fate."""
    request.model_name = exchange.path["model"]
    request.repository_name = exchange.path.get("repository", "")
    parameters = _object(exchange).get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidArgument("parameters: must be a JSON object", field="parameters")
    for name in parameters:
        request.parameters[name].SetInParent()


def _told(states: Iterable[NodeState]) -> Response:
    return json_response({"nodes": _shown(states)})


def _shown(states: Iterable[NodeState]) -> list[dict[str, Any]]:
    return [asdict(state) for state in states]
