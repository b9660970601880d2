"""Many requests on one stream: order, failures, the end, and a client that leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import NotFound
from mesh.infer_stream import answer_stream, wants_grpc_errors
from mesh.pb.inference_pb2 import ModelInferRequest, ModelInferResponse


async def feed(*ids: str) -> AsyncIterator[ModelInferRequest]:
    for each in ids:
        yield ModelInferRequest(id=each)


def is_decoupled(request: ModelInferRequest) -> bool:
    return request.id.startswith("d")


class Answers:
    """Answers `<name>:<turns>` after as many turns of the loop; decoupled ones in three pieces."""

    def __init__(self) -> None:
        self.under_way = 0
        self.most = 0
        self.closed: list[str] = []

    async def __call__(self, request: ModelInferRequest) -> AsyncGenerator[ModelInferResponse]:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            for _ in range(3 if is_decoupled(request) else 1):
                yield await self._one(request.id)
        finally:
            self.under_way -= 1
            self.closed.append(request.id)

    async def _one(self, name: str) -> ModelInferResponse:
        kind, _, turns = name.partition(":")
        if kind.endswith("fail"):
            raise NotFound(f"{name} is not there")
        if kind.endswith("break"):
            raise ZeroDivisionError
        if kind.endswith("stall"):
            await asyncio.get_running_loop().create_future()
        for _ in range(int(turns or 0)):
            await asyncio.sleep(0)
        return ModelInferResponse(id=name)


def stream(answers: Answers, *ids: str, **options):
    return answer_stream(feed(*ids), answers, is_decoupled=is_decoupled, **options)


async def read_all(responses) -> list[str]:
    return [each.infer_response.id async for each in responses]


names = st.builds("{}:{}".format, st.sampled_from(["d", "t"]), st.integers(0, 5))


@given(st.lists(names, max_size=20), st.integers(1, 5))
async def test_single_answers_keep_their_order_and_all_answers_come(
    ids: list[str], depth: int
) -> None:
    answers = Answers()
    found = await read_all(stream(answers, *ids, depth=depth))
    assert [each for each in found if each.startswith("t")] == [i for i in ids if i.startswith("t")]
    assert sorted(found) == sorted(i for i in ids for _ in range(3 if i.startswith("d") else 1))
    assert answers.most <= depth


async def test_pieces_do_not_wait_for_others() -> None:
    responses = stream(Answers(), "tstall", "dstall", "d")
    found = [(await anext(responses)).infer_response.id for _ in range(3)]
    assert found == ["d", "d", "d"]
    await responses.aclose()


async def test_a_failure_is_told_in_its_place_and_ends_nothing() -> None:
    found = [each async for each in stream(Answers(), "t:3", "tfail", "dfail", "t")]
    in_order = [each for each in found if each.infer_response.id != "dfail"]
    assert [each.infer_response.id for each in in_order] == ["t:3", "tfail", "t"]
    messages = {each.infer_response.id: each.error_message for each in found}
    failures = {name: f"{name} is not there" for name in ("tfail", "dfail")}
    assert messages == {"t:3": "", "t": "", **failures}
    failed = next(each for each in found if each.error_message)
    assert failed.infer_response.parameters["triton_final_response"].bool_param


async def test_a_failure_ends_the_stream_for_those_who_ask() -> None:
    answers = Answers()
    responses = stream(answers, "t", "tfail", "tstall", ends_at_failure=True)
    assert (await anext(responses)).infer_response.id == "t"
    with pytest.raises(NotFound, match="tfail"):
        await anext(responses)
    assert answers.under_way == 0


async def test_what_nobody_foresaw_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await anext(stream(Answers(), "tbreak"))


async def test_leaving_cancels_what_is_under_way() -> None:
    answers = Answers()
    before = asyncio.all_tasks()
    responses = stream(answers, "d:1", "dstall", "tstall")
    await anext(responses)
    await responses.aclose()
    assert answers.under_way == 0
    assert asyncio.all_tasks() == before


async def test_whoever_reads_slowly_holds_the_answers_up() -> None:
    answers = Answers()
    responses = stream(answers, *["d"] * 50, depth=2)
    await anext(responses)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(answers.closed) <= 4
    assert len(await read_all(responses)) == 149


async def test_an_answer_that_waits_for_its_turn_keeps_nothing_busy() -> None:
    answers = Answers()
    responses = stream(answers, "tstall", "t", "tfail")
    reading = asyncio.ensure_future(anext(responses))
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(answers.closed) == 2
    assert (answers.under_way, reading.done()) == (1, False)
    reading.cancel()
    await asyncio.wait({reading})


async def test_an_answer_that_nobody_reads_keeps_nothing_busy() -> None:
    answers = Answers()
    responses = stream(answers, *["t"] * 50, depth=2)
    await anext(responses)
    for _ in range(100):
        await asyncio.sleep(0)
    assert answers.under_way == 0
    assert len(answers.closed) <= 6  # and the slots hold the others up
    assert len(await read_all(responses)) == 49


async def test_an_answer_that_was_cancelled_does_not_hold_up_the_next() -> None:
    async def respond(request: ModelInferRequest) -> AsyncGenerator[ModelInferResponse]:
        if request.id == "gone":
            raise asyncio.CancelledError
        yield ModelInferResponse(id=request.id)

    responses = answer_stream(feed("gone", "t"), respond, is_decoupled=is_decoupled)
    assert await read_all(responses) == ["t"]


async def test_a_broken_request_stream_is_told() -> None:
    async def broken() -> AsyncIterator[ModelInferRequest]:
        yield ModelInferRequest(id="d")
        raise OSError("broken")

    responses = answer_stream(broken(), Answers(), is_decoupled=is_decoupled)
    with pytest.raises(OSError, match="broken"):
        await read_all(responses)


def test_real_errors_are_asked_for_by_a_header() -> None:
    assert wants_grpc_errors([("x", b"1"), ("triton_grpc_error", "true")])
    assert not wants_grpc_errors([("triton_grpc_error", "false")])
    assert not wants_grpc_errors(None)
