"""The wire side of the config service: parse, ask the journal or the board, render."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from mesh.pb import config_pb2 as pb
from mesh.pb import config_pb2_grpc
from mesh.server import ServiceBinding
from services.config.board import Board
from services.config.journal import Journal
from services.config.revision import Change, Revision, Setting

Context = grpc.aio.ServicerContext


class ConfigServicer(config_pb2_grpc.ConfigServicer):
    """`ringmesh.config.v1.Config`."""

    def __init__(self, journal: Journal, board: Board) -> None:
        self._journal = journal
        self._board = board

    async def ListSettings(
        self, _request: pb.ListSettingsRequest, _context: Context
    ) -> pb.ListSettingsResponse:
        """Every setting."""
        return pb.ListSettingsResponse(settings=map(_setting, await self._journal.list()))

    async def GetSetting(self, request: pb.GetSettingRequest, _context: Context) -> pb.Setting:
        """One setting."""
        return _setting(await self._journal.get(request.key))

    async def SetSetting(self, request: pb.SetSettingRequest, _context: Context) -> pb.Setting:
        """Changes a setting."""
        expected = request.expected_revision if request.HasField("expected_revision") else None
        return _setting(
            await self._journal.set(
                request.key, request.value_json, _change(request), expected=expected
            )
        )

    async def RollbackSetting(
        self, request: pb.RollbackSettingRequest, _context: Context
    ) -> pb.Setting:
        """Brings an earlier value back."""
        return _setting(
            await self._journal.rollback(request.key, request.revision, _change(request))
        )

    async def ListRevisions(
        self, request: pb.ListRevisionsRequest, _context: Context
    ) -> pb.ListRevisionsResponse:
        """What a setting has been."""
        revisions = await self._journal.revisions(request.key)
        return pb.ListRevisionsResponse(revisions=map(_revision, revisions))

    async def WatchSettings(
        self, _request: pb.WatchSettingsRequest, _context: Context
    ) -> AsyncIterator[pb.WatchSettingsResponse]:
        """All settings, then each change."""
        async for settings in self._board.watch():
            yield pb.WatchSettingsResponse(settings=map(_setting, settings))


def config_binding(servicer: ConfigServicer) -> ServiceBinding:
    """The servicer under its full name."""
    name = pb.DESCRIPTOR.services_by_name["Config"].full_name
    return ServiceBinding(name, config_pb2_grpc.add_ConfigServicer_to_server, servicer)


def _change(request: pb.SetSettingRequest | pb.RollbackSettingRequest) -> Change:
    return Change(request.actor, request.reason, time.time_ns() // 1_000_000)


def _setting(setting: Setting) -> pb.Setting:
    definition, latest = setting.definition, setting.latest
    return pb.Setting(
        key=definition.key,
        value_json=_json(setting.value),
        revision=setting.revision,
        description=definition.description,
        default_json=_json(definition.default),
        schema_json=_json(definition.schema),
        changed_unix_ms=0 if latest is None else latest.changed_unix_ms,
        actor="" if latest is None else latest.actor,
    )


def _revision(revision: Revision) -> pb.Revision:
    return pb.Revision(
        revision=revision.revision,
        value_json=_json(revision.value),
        changed_unix_ms=revision.changed_unix_ms,
        actor=revision.actor,
        reason=revision.reason,
    )


def _json(value: Any) -> str:
    return json.dumps(value)
