"""Triton's `generate` and `generate_stream`: a text in, its continuation out, as plain JSON.

Keys beside `text_input`, `id` and `parameters` are parameters as well, as Triton has it for keys
that are no inputs. What a generation took stands in the (last) response.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from mesh.errors import InvalidArgument, RingmeshError
from mesh.infer_stream import FINAL_RESPONSE
from mesh.logs import get_logger
from mesh.pb import inference_pb2 as oip
from mesh.request_parameters import EMPTY_FINAL
from mesh.tensor import json_to_raw
from mesh.text_inference import TEXT_INPUT, TEXT_OUTPUT, read_text_output
from services.gateway.dataplane import Dataplane
from services.gateway.http.event_stream import EventStream, frame
from services.gateway.http.exchange import Exchange, Routes
from services.gateway.http.json import dump_json, json_response, parse_json
from services.gateway.oip.parameters import parse_parameters, render_parameters
from services.gateway.text_inference import Responses

STREAM = "stream"
"""Some clients say in a parameter what the path says already; it must not say the opposite."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class GenerateRest:
    """The handlers of the two routes."""

    dataplane: Dataplane

    def routes(self, prefix: str) -> Routes:
        """Method, path and handler of each."""
        return (
            ("POST", f"{prefix}/generate", self.generate),
            ("POST", f"{prefix}/generate_stream", self.generate_stream),
        )

    async def generate(self, exchange: Exchange) -> Response:
        """The whole text in one object."""
        request = _request(exchange, streams=False)
        answer = await self.dataplane.answer_text(request, exchange.caller)
        text = read_text_output(answer.message)
        return json_response(render(answer.message, text), headers=answer.receipt)

    async def generate_stream(self, exchange: Exchange) -> Response:
        """An event per piece of the text."""
        request = _request(exchange, streams=True)
        begun = await self.dataplane.begin_text(request, exchange.caller)
        return EventStream(_events(begun.responses), begun.receipt)


async def _events(responses: Responses) -> AsyncGenerator[bytes, None]:
    async with aclosing(responses):
        try:
            async for response in responses:
                yield _event(response)
        except RingmeshError as error:
            _log.warning("stream ended by an error", reason=error.reason, error=error.message)
            yield frame(dump_json({"error": error.message}))


def parse_generate_request(document: Any) -> oip.ModelInferRequest:
    """The message, without its model, of a JSON body."""
    if not isinstance(document, dict):
        raise InvalidArgument("the body must be a JSON object", field="body")
    fields = dict(document)
    text, request_id = fields.pop(TEXT_INPUT, None), fields.pop("id", "")
    for name, value in ((TEXT_INPUT, text), ("id", request_id)):
        if not isinstance(value, str):
            raise InvalidArgument(f"{name} must be a string", field=name)
    request = oip.ModelInferRequest(id=request_id)
    parse_parameters(fields.pop("parameters", None), request.parameters, field="parameters")
    beside = oip.ModelInferRequest().parameters
    parse_parameters(fields, beside, field="body")
    for name, value in beside.items():
        if name in request.parameters and request.parameters[name] != value:
            where = f"parameters.{name}"
            text = f"{where} and {name} beside it say different things; send one of them"
            raise InvalidArgument(text, field=where)
        request.parameters[name].CopyFrom(value)
    request.inputs.add(name=TEXT_INPUT, datatype="BYTES", shape=[1])
    request.raw_input_contents.append(json_to_raw([text], "BYTES", [1], field=TEXT_INPUT))
    return request


def render(response: oip.ModelInferResponse, text: str) -> dict[str, Any]:
    """The JSON object of a response."""
    rendered: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
        TEXT_OUTPUT: text,
    }
    if response.id:
        rendered["id"] = response.id
    facts = render_parameters(response.parameters)
    facts.pop(FINAL_RESPONSE, None)
    return rendered | facts


def _request(exchange: Exchange, *, streams: bool) -> oip.ModelInferRequest:
    request = parse_generate_request(parse_json(exchange.body))
    request.model_name = exchange.path["model"]
    request.model_version = exchange.path.get("version", "")
    request.parameters.pop(EMPTY_FINAL, None)  # of no use here: the last event has the facts
    if STREAM in request.parameters:
        said = request.parameters.pop(STREAM)
        if said != oip.InferParameter(bool_param=streams):
            text = f"parameters.stream: this path answers only with {str(streams).lower()}"
            raise InvalidArgument(text, field="parameters.stream")
    return request


def _event(response: oip.ModelInferResponse) -> bytes:
    return frame(dump_json(render(response, read_text_output(response))))
