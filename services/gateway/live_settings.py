"""The mesh's live settings as the gateway reads and changes them for its callers.

The config service keeps them, with their history; it is reached through the proxies like every
other service.
"""

from __future__ import annotations

import json
from typing import Any

import grpc

from mesh.errors import RemoteError, Unavailable, error_from_rpc
from mesh.pb import config_pb2 as pb
from mesh.pb import config_pb2_grpc

TIMEOUT_S = 5.0
ACTOR = "open inference protocol"
REASON = "asked for through the gateway"


class LiveSettings:
    """Settings by key; a value is whatever JSON says."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = config_pb2_grpc.ConfigStub(channel)

    async def read(self, key: str) -> tuple[Any, Any]:
        """The value of a setting, and its default."""
        setting = await self._call(self._stub.GetSetting, pb.GetSettingRequest(key=key))
        return json.loads(setting.value_json), json.loads(setting.default_json)

    async def write(self, key: str, value: Any) -> None:
        """Gives a setting another value.

        Raises:
            InvalidArgument: the setting cannot have it.
            Unavailable: the config service does not answer.
        """
        request = pb.SetSettingRequest(
            key=key, value_json=json.dumps(value), actor=ACTOR, reason=REASON
        )
        await self._call(self._stub.SetSetting, request)

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            made: Any = error_from_rpc(error)
            if isinstance(made, RemoteError):
                made = Unavailable(f"the config service does not answer: {made.message}")
            raise made from error
