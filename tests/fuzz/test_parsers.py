"""Parsers meet broken messages: each is read, or refused by an error of the caller's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from pydantic import BaseModel

from mesh.errors import Internal, RingmeshError
from mesh.pb import inference_pb2 as oip
from mesh.tensor import validate_request
from services.gateway.http.json import parse_json
from services.gateway.oip.generate_rest import parse_generate_request
from services.gateway.oip.infer_request import parse_infer_request
from services.gateway.openai.error import read_request
from services.gateway.openai.request import ChatRequest, CompletionRequest
from tests.fuzz.corpus import http_calls, infer_requests
from tests.fuzz.mutation import RUNS, broken

LONGEST_MESSAGE = 2000


def check(parse: Callable[[], Any]) -> None:
    refusal = refusal_of(parse)
    assert not isinstance(refusal, Internal)
    assert refusal is None or len(refusal.message) < LONGEST_MESSAGE


def refusal_of(parse: Callable[[], Any]) -> RingmeshError | None:
    """What a parser refuses with; anything but an error of the tree fails the test."""
    try:
        parse()
    except RingmeshError as error:
        return error
    return None


def test_tensors() -> None:
    for data in broken([each.SerializeToString() for each in infer_requests()], 10 * RUNS):
        request = oip.ModelInferRequest()
        with suppress(DecodeError):  # refused before any parser of ours sees it
            request.ParseFromString(data)
            check(lambda request=request: validate_request(request))


def test_bodies_of_infer() -> None:
    calls = [each for each in http_calls() if each.path.endswith("/infer")]
    for call in calls:
        length = None if call.header_length is None else str(call.header_length)
        for body in broken([call.body], 2 * RUNS):
            check(lambda body=body, length=length: parse_infer_request(body, length))


def test_bodies_of_generate() -> None:
    (call,) = [each for each in http_calls() if each.path.endswith("/generate")]
    for body in broken([call.body], 5 * RUNS):
        check(lambda body=body: parse_generate_request(parse_json(body)))


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/v1/chat/completions", ChatRequest), ("/v1/completions", CompletionRequest)],
)
def test_bodies_of_openai(path: str, kind: type[BaseModel]) -> None:
    (call,) = [each for each in http_calls() if each.path == path]
    for body in broken([call.body], 5 * RUNS):
        check(lambda body=body: read_request(kind, body))
