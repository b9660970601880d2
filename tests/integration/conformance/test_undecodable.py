"""Bytes that are no message, through a real channel: named as such, and nothing else is harmed."""

from __future__ import annotations

import grpc
import pytest

from mesh.errors import InvalidArgument, error_from_rpc
from mesh.pb import inference_pb2 as oip

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICE = "/inference.GRPCInferenceService"
GARBAGE = [
    b"\xff",
    b"\x0a\x7fidentity",  # a name that ends before its length says
    b"\x0a\x02\xff\xfe",  # a name that is not UTF-8
    b"\x12\xff\xff\xff\xff\x0f",  # a version longer than a message may be
    bytes([0x0B]) * 200,  # groups that nobody closes
]
UNARY = ("ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")


def assert_refused(error: grpc.aio.AioRpcError) -> None:
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    made = error_from_rpc(error)
    assert isinstance(made, InvalidArgument)
    assert made.field == "message"
    assert "cannot be decoded" in made.message


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("method", UNARY)
async def test_a_unary_call_is_refused(channel, method: str, garbage: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(f"{SERVICE}/{method}")(garbage)
    assert_refused(caught.value)


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_a_stream_answers_what_came_before_and_then_ends(channel, garbage: bytes) -> None:
    good = oip.ModelInferRequest(model_name="identity", id="1").SerializeToString()
    call = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")()
    await call.write(good)
    answer = oip.ModelStreamInferResponse.FromString(await call.read())
    assert (answer.infer_response.id, answer.error_message) == ("1", "")
    await call.write(garbage)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert_refused(caught.value)


async def test_an_empty_message_is_a_message(channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="model_name") as caught:
        await channel.unary_unary(f"{SERVICE}/ModelInfer")(b"")
    assert error_from_rpc(caught.value).field == "model_name"
