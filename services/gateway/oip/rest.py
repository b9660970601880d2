"""The REST routes of the Open Inference Protocol: translate, ask the dataplane, translate back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.responses import Response

from mesh.errors import ModelNotReady, RingmeshError, error_http_status
from mesh.pb import inference_pb2 as oip
from services.gateway.dataplane import Dataplane
from services.gateway.http.compression import accepted_encoding, compress
from services.gateway.http.exchange import Exchange, Routes
from services.gateway.http.json import json_response
from services.gateway.http.long_work import carry_out
from services.gateway.node_client import RECEIPT_HEADERS, Answer
from services.gateway.oip.config_json import message_to_json
from services.gateway.oip.generate_rest import GenerateRest
from services.gateway.oip.infer_request import (
    HEADER_LENGTH,
    OutputForm,
    is_raw,
    parse_infer_request,
)
from services.gateway.oip.infer_response import InferBody, render_infer_response
from services.gateway.oip.raw_request import make_raw_request
from services.gateway.oip_servicer import describe_server

MODEL = "/v2/models/{model}"
VERSION = "/v2/models/{model}/versions/{version}"
_, VERSION_HEADER = RECEIPT_HEADERS


@dataclass(frozen=True, slots=True)
class OipRest:
    """The handlers; `routes` lists them with their method and path."""

    dataplane: Dataplane

    def routes(self) -> Routes:
        """Method, path and handler of every route."""
        return (
            ("GET", "/v2", self.server_metadata),
            ("GET", "/v2/", self.server_metadata),
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.live),
            ("GET", "/v2/models/stats", self.statistics),
            *self._model_routes(MODEL),
            *self._model_routes(VERSION),
        )

    def _model_routes(self, prefix: str) -> Routes:
        return (
            ("GET", prefix, self.model_metadata),
            ("GET", f"{prefix}/ready", self.model_ready),
            ("GET", f"{prefix}/config", self.model_config),
            ("GET", f"{prefix}/stats", self.statistics),
            ("POST", f"{prefix}/infer", self.infer),
            *GenerateRest(self.dataplane).routes(prefix),
        )

    async def live(self, exchange: Exchange) -> Response:
        """Live and ready are one: the process listens only once it knows what is deployed."""
        del exchange
        return Response(status_code=200)

    async def server_metadata(self, exchange: Exchange) -> Response:
        """Name, version and extensions."""
        del exchange
        return json_response(message_to_json(describe_server()))

    async def model_ready(self, exchange: Exchange) -> Response:
        """200 if the model would answer now."""
        name, version = _named(exchange)
        if not await self.dataplane.is_ready(name, version, exchange.caller):
            raise ModelNotReady(f"{name}@{version}" if version else name, "not ready")
        return Response(status_code=200)

    async def model_metadata(self, exchange: Exchange) -> Response:
        """The model's inputs and outputs."""
        answer = await self.dataplane.metadata(*_named(exchange), exchange.caller)
        return _answered(answer, message_to_json(answer.message))

    async def model_config(self, exchange: Exchange) -> Response:
        """The model's configuration."""
        answer = await self.dataplane.config(*_named(exchange), exchange.caller)
        return _answered(answer, message_to_json(answer.message.config))

    async def statistics(self, exchange: Exchange) -> Response:
        """Counts and durations over all nodes."""
        name, version = exchange.path.get("model", ""), exchange.path.get("version", "")
        return json_response(message_to_json(await self.dataplane.statistics(name, version)))

    async def infer(self, exchange: Exchange) -> Response:
        """Runs a model."""
        length = exchange.headers.get(HEADER_LENGTH)
        if is_raw(length):
            request, form = await self._raw_request(exchange), OutputForm(default=True)
        else:
            parse = partial(parse_infer_request, exchange.body, length)
            request, form = await carry_out(parse, len(exchange.body))
            request.model_name, request.model_version = _named(exchange)
        answer = await self.dataplane.infer(request, exchange.caller)
        size_bytes = sum(map(len, answer.message.raw_output_contents))
        rendered = await carry_out(partial(render_infer_response, answer.message, form), size_bytes)
        return await _infer_response(rendered, answer, exchange.headers)

    async def _raw_request(self, exchange: Exchange) -> oip.ModelInferRequest:
        described = await self.dataplane.metadata(*_named(exchange), exchange.caller)
        request = make_raw_request(described.message, exchange.body)
        # Of the version that described itself: another may take something else.
        request.model_name = described.message.name
        request.model_version = described.receipt.get(VERSION_HEADER, "")
        return request


async def _infer_response(
    rendered: InferBody, answer: Answer[oip.ModelInferResponse], asked: Mapping[str, str]
) -> Response:
    headers = dict(answer.receipt)
    if rendered.header_length is not None:
        headers[HEADER_LENGTH] = str(rendered.header_length)
    encoding = accepted_encoding(asked.get("accept-encoding", ""))
    body = rendered.body
    if encoding is not None:
        body = await compress(body, encoding)
        headers["content-encoding"] = encoding
    is_json = rendered.header_length is None
    media_type = "application/json" if is_json else "application/octet-stream"
    return Response(body, headers=headers, media_type=media_type)


def render_error(error: RingmeshError) -> Response:
    """An error in the protocol's shape."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    return json_response({"error": error.message}, error_http_status(error), headers)


def _named(exchange: Exchange) -> tuple[str, str]:
    return exchange.path["model"], exchange.path.get("version", "")


def _answered(answer: Answer[Any], value: Any) -> Response:
    return json_response(value, headers=answer.receipt)
