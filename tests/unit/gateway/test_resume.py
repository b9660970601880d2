"""The bookkeeping of a generation over several calls."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument, ModelNotFound, ModelNotReady, QueueFull, Unavailable
from mesh.pb.node_pb2 import Delta, Finished, GenerateRequest, GenerateResponse, Started
from mesh.reference import ModelReference
from services.gateway.node_client import BrokenOff, Hop
from services.gateway.resume import Continuation, fix_seed, generate


def delta(*tokens: int) -> GenerateResponse:
    return GenerateResponse(delta=Delta(token_ids=tokens))


def started(version: int) -> GenerateResponse:
    return GenerateResponse(started=Started(node="n", model_version=str(version)))


STARTED = started(1)
CALLS = st.lists(st.lists(st.lists(st.integers(0, 99), max_size=3), max_size=5), max_size=4)


@given(CALLS)
def test_each_call_goes_on_after_everything_that_was_delivered(calls) -> None:
    request = GenerateRequest(model_name="m", text="x", max_tokens=9, stop=["a"])
    state, delivered = Continuation(request, attempts=9), []
    for index, deltas in enumerate(calls):
        current = state.next_request()
        assert list(current.resume_token_ids) == delivered
        assert state.accept(STARTED) == (index == 0)
        for tokens in deltas:
            assert state.accept(delta(*tokens))
            delivered.extend(tokens)
        stripped = GenerateRequest()
        stripped.CopyFrom(current)
        del stripped.resume_token_ids[:]
        assert stripped.model_version == ("1" if index else "")
        stripped.model_version = ""
        assert stripped == request
    assert not request.resume_token_ids


def test_the_callers_own_request_is_used_while_nothing_has_begun() -> None:
    request = GenerateRequest(text="x")
    state = Continuation(request, attempts=1)
    assert state.next_request() is request
    assert not request.model_version


@pytest.mark.parametrize("asked", [ModelReference("m"), ModelReference("m", alias="best")])
def test_the_version_that_began_goes_on(asked: ModelReference) -> None:
    state = Continuation(GenerateRequest(model_name="m"), attempts=1)
    assert state.next_model(asked) == asked
    assert state.accept(started(3))
    assert not state.accept(started(4))
    assert state.next_model(asked) == ModelReference("m", version=3)
    assert state.next_request().model_version == "3"


def test_the_count_is_of_the_whole_and_not_of_the_last_call() -> None:
    state = Continuation(GenerateRequest(), attempts=1)
    state.accept(delta(1, 2, 3))
    for said, meant in ((2, 3), (3, 3), (4, 4)):
        event = GenerateResponse(finished=Finished(completion_tokens=said))
        assert state.accept(event)
        assert event.finished.completion_tokens == meant


def test_attempts_and_time_run_out() -> None:
    state = Continuation(GenerateRequest(), attempts=2)
    assert not state.may_go_on(0.001)
    assert state.may_go_on(1)
    assert state.may_go_on(1)
    assert not state.may_go_on(1)
    assert "0 attempts left" in repr(state)


class MovingModel:
    """A model whose name leads to version 2 as soon as a call to version 1 has broken off."""

    def __init__(self, *, keeps_first: bool) -> None:
        self._leads_to = 1
        self._keeps_first = keeps_first

    async def generate(self, request: GenerateRequest, hop: Hop):
        version = hop.model.version or self._leads_to
        assert request.model_version == str(hop.model.version or "")
        if version == 1 and self._leads_to == 2 and not self._keeps_first:
            raise ModelNotFound(str(hop.model), "deployed versions: 2")
        yield started(version)
        done = len(request.resume_token_ids)
        for place in range(done, done + 2):
            yield delta(10 * version + place)
        if self._leads_to == 1:
            self._leads_to = 2
            raise BrokenOff("the node died")
        yield GenerateResponse(finished=Finished(completion_tokens=done + 2))


def read(model: MovingModel) -> list[int]:
    async def read_tokens() -> None:
        hop = Hop(ModelReference("m", alias="best"), timeout_s=9)
        request = GenerateRequest(model_name="m")
        async for event in generate(model, request, hop, attempts=2):
            tokens.extend(event.delta.token_ids)

    tokens: list[int] = []
    asyncio.run(read_tokens())
    return tokens


def test_a_text_is_one_versions_though_the_alias_moves_on() -> None:
    assert read(MovingModel(keeps_first=True)) == [10, 11, 12, 13]


def test_a_text_whose_version_is_gone_ends_and_says_so() -> None:
    with pytest.raises(Unavailable, match=r"the node died.*version 1.*'m@1' does not exist"):
        read(MovingModel(keeps_first=False))


@pytest.mark.parametrize(
    "refusal",
    [ModelNotReady("m", "LOADING"), QueueFull("full", 1.5), ModelNotFound("m@1")],
)
def test_a_refusal_is_told_as_it_is_unless_text_was_said_already(refusal) -> None:
    state, broke = Continuation(GenerateRequest(), attempts=2), Unavailable("the engine is lost")
    assert state.outcome(None, refusal) is refusal
    assert state.outcome(broke, refusal) is refusal
    state.accept(STARTED)
    told = state.outcome(broke, refusal)
    assert type(told) is Unavailable
    assert "the engine is lost" in told.message
    assert refusal.message in told.message
    assert told.retry_after_s == refusal.retry_after_s
    wrong = InvalidArgument("no", field="prompt")
    assert state.outcome(broke, wrong) is wrong


def test_a_seed_is_chosen_once_and_never_replaced() -> None:
    request = GenerateRequest()
    fix_seed(request)
    chosen = request.sampling.seed
    fix_seed(request)
    assert request.sampling.seed == chosen
    given_zero = GenerateRequest()
    given_zero.sampling.seed = 0
    fix_seed(given_zero)
    assert given_zero.sampling.seed == 0
