"""The bookkeeping of a generation over several calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument, ModelNotReady, QueueFull, Unavailable
from mesh.pb.node_pb2 import Delta, Finished, GenerateRequest, GenerateResponse, Started
from services.gateway.resume import Continuation, fix_seed


def delta(*tokens: int) -> GenerateResponse:
    return GenerateResponse(delta=Delta(token_ids=tokens))


STARTED = GenerateResponse(started=Started(node="n"))
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
        assert stripped == request
    assert not request.resume_token_ids


def test_the_callers_own_request_is_used_while_nothing_was_delivered() -> None:
    request = GenerateRequest(text="x")
    state = Continuation(request, attempts=1)
    state.accept(STARTED)
    assert state.next_request() is request


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


@pytest.mark.parametrize("refusal", [ModelNotReady("m", "LOADING"), QueueFull("full", 1.5)])
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
