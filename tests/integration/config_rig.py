"""The config service as its callers meet it: its own server, a real stub, a real Consul."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import grpc

from mesh.catalog import Catalog
from mesh.pb import config_pb2 as pb
from mesh.pb import config_pb2_grpc
from mesh.server import serve
from mesh.telemetry import open_telemetry
from services.config.board import Board
from services.config.config_servicer import ConfigServicer, config_binding
from services.config.definition import make_definitions
from services.config.journal import Journal

TIMEOUT_S = 20.0
FACTOR = "routing.hash_balance_factor"


@dataclass
class ConfigRig:
    stub: Any
    port: int

    async def get(self, key: str = FACTOR) -> pb.Setting:
        return await self.stub.GetSetting(pb.GetSettingRequest(key=key), timeout=TIMEOUT_S)

    async def set(
        self, value: object, expected: int | None = None, *, key: str = FACTOR, reason: str = ""
    ) -> pb.Setting:
        request = pb.SetSettingRequest(
            key=key,
            value_json=json.dumps(value),
            expected_revision=expected,
            actor="ada",
            reason=reason,
        )
        return await self.stub.SetSetting(request, timeout=TIMEOUT_S)

    async def rollback(self, revision: int, key: str = FACTOR) -> pb.Setting:
        request = pb.RollbackSettingRequest(key=key, revision=revision, actor="bob", reason="oops")
        return await self.stub.RollbackSetting(request, timeout=TIMEOUT_S)

    async def history(self, key: str = FACTOR) -> list[tuple[int, Any, str, str]]:
        request = pb.ListRevisionsRequest(key=key)
        answer = await self.stub.ListRevisions(request, timeout=TIMEOUT_S)
        return [
            (each.revision, json.loads(each.value_json), each.actor, each.reason)
            for each in answer.revisions
        ]

    def watch(self) -> AsyncIterator[dict[str, Any]]:
        return self._values(self.stub.WatchSettings(pb.WatchSettingsRequest()))

    @staticmethod
    async def _values(call: Any) -> AsyncIterator[dict[str, Any]]:
        async for answer in call:
            yield {each.key: json.loads(each.value_json) for each in answer.settings}


@asynccontextmanager
async def open_config(
    consul: str, *, implementation: Literal["native", "grpcio"] = "native"
) -> AsyncIterator[ConfigRig]:
    with open_telemetry("config", "config-test", otlp_endpoint=None) as telemetry:
        async with Catalog.open(consul) as catalog:
            definitions = make_definitions()
            board = Board(catalog, definitions)
            servicer = ConfigServicer(Journal(catalog, definitions), board)
            async with (
                serve(
                    listen="127.0.0.1:0",
                    services=[config_binding(servicer)],
                    telemetry=telemetry,
                    drain_timeout_s=5,
                    implementation=implementation,
                ) as server,
                grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
                board.open(),
            ):
                yield ConfigRig(config_pb2_grpc.ConfigStub(channel), server.port)
