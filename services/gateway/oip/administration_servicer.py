"""The methods of the protocol that concern the server and its models rather than an inference.

Loading and unloading answer with an empty message; how each node does stands in the trailing
metadata. Both settings methods read if no setting is given, and change what is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import grpc

from mesh.errors import InvalidArgument
from mesh.pb import inference_pb2 as oip
from services.gateway.caller import caller_from_metadata
from services.gateway.oip.log_setting import Value
from services.gateway.oip.setting import ServerSettings
from services.gateway.repository import FleetRepository, NodeState

NODES_TRAILER = "x-ringmesh-nodes"
SEPARATOR = ", "
MAX_TOLD_BYTES = 4096
"""Clients take trailers of 8 KB altogether; the repository's index has the rest."""


class AdministrationServicer:
    """Methods of `inference.GRPCInferenceService`."""

    def __init__(self, repository: FleetRepository, settings: ServerSettings) -> None:
        self._repository = repository
        self._settings = settings

    async def RepositoryIndex(
        self, request: oip.RepositoryIndexRequest, context: grpc.aio.ServicerContext
    ) -> oip.RepositoryIndexResponse:
        """Every deployed version with its state."""
        del context
        return await self._repository.index(ready_only=request.ready)

    async def RepositoryModelLoad(
        self, request: oip.RepositoryModelLoadRequest, context: grpc.aio.ServicerContext
    ) -> oip.RepositoryModelLoadResponse:
        """Loads what was unloaded by hand, on every node."""
        caller = caller_from_metadata(context.invocation_metadata(), context)
        _tell(await self._repository.load(request, caller), context)
        return oip.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: oip.RepositoryModelUnloadRequest, context: grpc.aio.ServicerContext
    ) -> oip.RepositoryModelUnloadResponse:
        """Takes a model out of service on every node."""
        caller = caller_from_metadata(context.invocation_metadata(), context)
        _tell(await self._repository.unload(request, caller), context)
        return oip.RepositoryModelUnloadResponse()

    async def TraceSetting(
        self, request: oip.TraceSettingRequest, context: grpc.aio.ServicerContext
    ) -> oip.TraceSettingResponse:
        """Which traces are recorded."""
        del context
        changes = {name: tuple(each.value) for name, each in request.settings.items()}
        answer = oip.TraceSettingResponse()
        for name, values in (await self._settings.trace(changes, request.model_name)).items():
            answer.settings[name].value.extend(values)
        return answer

    async def LogSettings(
        self, request: oip.LogSettingsRequest, context: grpc.aio.ServicerContext
    ) -> oip.LogSettingsResponse:
        """What is logged."""
        del context
        changes = {name: _value(name, each) for name, each in request.settings.items()}
        answer = oip.LogSettingsResponse()
        for name, value in (await self._settings.log(changes)).items():
            setattr(answer.settings[name], _FIELD_OF[type(value)], value)
        return answer


_FIELD_OF = {bool: "bool_param", int: "uint32_param", str: "string_param"}


def _value(name: str, setting: Any) -> Value:
    choice = setting.WhichOneof("parameter_choice")
    if choice is None:
        raise InvalidArgument(f"settings.{name[:80]}: has no value", field=name)
    value: Value = getattr(setting, choice)
    return value


def _tell(states: Sequence[NodeState], context: grpc.aio.ServicerContext) -> None:
    context.set_trailing_metadata(((NODES_TRAILER, show_states(states)),))


def show_states(states: Sequence[NodeState]) -> str:
    """As many states as a trailer holds, and how many more there are."""
    told = [f"{each.node} {each.model}@{each.version} {each.state}" for each in states]
    room = accumulate(len(each) + len(SEPARATOR) for each in told)
    fit = sum(size <= MAX_TOLD_BYTES for size in room)
    more = [f"and {len(told) - fit} more"] if fit < len(told) else []
    return SEPARATOR.join(told[:fit] + more)
