"""GET /v1/models: the deployed models under their plain names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from services.gateway.directory import Directory, parse_reference
from services.gateway.directory_watch import DirectoryWatch
from services.gateway.http.exchange import Exchange
from services.gateway.http.json import json_response


@dataclass(frozen=True, slots=True)
class ModelListRest:
    """The routes that list models."""

    watch: DirectoryWatch

    async def models(self, exchange: Exchange) -> Response:
        """Every deployed model."""
        del exchange
        return json_response({"object": "list", "data": list(_models(self.watch.now))})

    async def model(self, exchange: Exchange) -> Response:
        """One model, under whatever reference it was asked for."""
        name = exchange.path["model"]
        reference = parse_reference(name)
        self.watch.now.states(reference)  # refuses what does not exist
        return json_response(_model(name, self.watch.now))


def _models(directory: Directory) -> Iterator[dict[str, Any]]:
    for model in sorted(directory.deployments):
        yield _model(model, directory)


def _model(name: str, directory: Directory) -> dict[str, Any]:
    reference = parse_reference(name)
    states = directory.states(reference)
    return {
        "id": name,
        "object": "model",
        "created": 0,  # a deployment does not say when; clients want a number
        "owned_by": "ringmesh",
        "task": directory.manifest(reference).task,
        "ready": any(state.is_ready for state in states),
    }
