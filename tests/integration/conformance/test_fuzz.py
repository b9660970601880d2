"""Requests with broken bytes: whatever comes in, the answer is an answer or says what is wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import grpc
import httpx
import pytest

from mesh.pb import inference_pb2 as oip
from tests.integration.conformance_table import VECTORS, Case
from tests.integration.oip_rig import Lanes

pytestmark = pytest.mark.asyncio(loop_scope="module")

INFER = "/inference.GRPCInferenceService/ModelInfer"
PATH = "/v2/models/identity/infer"
ROUNDS = 250
ANSWERS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,  # a timeout of a microsecond is one
}
STATUSES = {200, 400, 404, 501, 504}


def message(case: Case) -> bytes:
    request = oip.ModelInferRequest(model_name="identity", id="r", raw_input_contents=[case.raw])
    request.inputs.add(name="x", datatype=case.datatype, shape=case.shape)
    request.outputs.add(name="x").parameters["classification"].int64_param = 2
    request.parameters["sequence_id"].int64_param = 7
    request.parameters["timeout"].int64_param = 10**9
    return request.SerializeToString()


def body(case: Case) -> bytes:
    size = {"binary_data_size": len(case.raw)}
    tensor = {"name": "x", "datatype": case.datatype, "shape": list(case.shape)}
    output = {"name": "x", "parameters": {"binary_data": True, "classification": 0}}
    document = {"id": "r", "inputs": [{**tensor, "parameters": size}], "outputs": [output]}
    return json.dumps(document).encode()


def broken(data: bytes, chance: random.Random) -> bytes:
    """The bytes with a few of them changed, left out, doubled or cut off."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(made) or 1)
        match chance.randrange(5):
            case 0:
                made[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del made[at : at + chance.randint(1, 8)]
            case 2:
                made[at:at] = made[at : at + chance.randint(1, 8)]
            case 3:
                made[at:at] = chance.choice([b"\xff" * 9, b"-", b"1e999", b'"', b"[[", b"\0"])
            case _:
                del made[at:]
    return bytes(made)


def rounds(seed: int) -> Iterator[tuple[Case, random.Random]]:
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        yield chance.choice(VECTORS), chance


@pytest.mark.parametrize("lane", ["node", "gateway"])
async def test_any_bytes_over_grpc_get_an_answer(lanes: Lanes, lane: str) -> None:
    seen = set()
    async with grpc.aio.insecure_channel(lanes.grpc(lane)) as channel:
        for case, chance in rounds(1):
            asked = broken(message(case), chance)
            call = channel.unary_unary(INFER)(asked, timeout=20)
            code = await call.code()
            assert code in ANSWERS, (asked, await call.details())
            seen.add(code)
    assert {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT} <= seen


@pytest.mark.parametrize("breaks", ["json", "binary", "length"])
async def test_any_bytes_over_rest_get_an_answer(lanes: Lanes, breaks: str) -> None:
    seen = set()
    async with httpx.AsyncClient(base_url=f"http://{lanes.http}", timeout=20) as http:
        for case, chance in rounds(2):
            text, blob = body(case), case.raw
            length = str(len(text))
            if breaks == "json":
                text = broken(text, chance)
                length = str(len(text))
            elif breaks == "binary":
                blob = broken(blob, chance)
            else:
                length = str(chance.choice([0, 1, len(text) - 1, len(text) + 1, 10**30]))
            headers = {"Inference-Header-Content-Length": length}
            answer = await http.post(PATH, content=text + blob, headers=headers)
            assert answer.status_code in STATUSES, (text, blob, answer.text)
            if answer.status_code != 200:
                assert set(answer.json()) == {"error"}
            seen.add(answer.status_code)
    assert 400 in seen
