"""What a failed call to a node means, by code and by who said it."""

import grpc
import pytest

from mesh.errors import (
    DETAILS_KEY,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    ModelNotReady,
    PayloadTooLarge,
    QueueFull,
    RemoteError,
    RingmeshError,
    error_to_status,
)
from mesh.reference import ModelReference
from services.gateway.node_client import BrokenOff, Hop, node_error

Code = grpc.StatusCode
TOO_LARGE = PayloadTooLarge
HOP = Hop(ModelReference("m", version=2), timeout_s=1.5)


def failed(code: grpc.StatusCode, details: str = "", error: RingmeshError | None = None):
    trailer = []
    if error is not None:
        trailer = [(DETAILS_KEY, error_to_status(error).SerializeToString())]
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailer), details)


@pytest.mark.parametrize(
    ("code", "details", "started", "kind"),
    [
        (Code.UNAVAILABLE, "upstream connect error", False, BrokenOff),
        (Code.INTERNAL, "Received RST_STREAM", True, BrokenOff),
        (Code.CANCELLED, "RST_STREAM", True, BrokenOff),
        (Code.INTERNAL, "something else", False, RemoteError),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded", False, DeadlineExceeded),
        (Code.UNIMPLEMENTED, "", False, ModelNotReady),  # Envoy without a route
        (Code.UNIMPLEMENTED, "Method not found", False, RemoteError),
        (
            Code.RESOURCE_EXHAUSTED,
            "CLIENT: Sent message larger than max (9 vs. 8)",
            False,
            TOO_LARGE,
        ),
        (Code.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 8)", True, TOO_LARGE),
        (Code.RESOURCE_EXHAUSTED, "SERVER: Sent message larger than max", False, TOO_LARGE),
        (Code.RESOURCE_EXHAUSTED, "overload manager", False, RemoteError),
    ],
)
def test_what_nobody_of_ours_said(code, details, started, kind) -> None:
    error = node_error(failed(code, details), HOP, started=started)
    assert type(error) is kind
    if kind is not RemoteError:
        assert "m@2" in error.message


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.INTERNAL, Code.CANCELLED])
@pytest.mark.parametrize("started", [False, True])
def test_a_call_that_is_cut_short_at_its_deadline_was_out_of_time(code, started: bool) -> None:
    error = node_error(failed(code, "upstream request timeout"), HOP, True, started=started)
    assert isinstance(error, DeadlineExceeded)
    assert "'m@2' did not answer within 1.5 s" in error.message


@pytest.mark.parametrize(
    "said",
    [
        InvalidArgument("no", field="x"),
        QueueFull("full", 1.5),
        ModelNotReady("m", "DRAINING", "bye"),
        Internal("this row cannot be computed"),
    ],
)
def test_what_a_node_said_passes_as_it_is(said: RingmeshError) -> None:
    error = node_error(failed(said.code, said.message, said), HOP, started=True)
    assert type(error) is type(said)
    assert (error.message, error.metadata, error.retry_after_s) == (
        said.message,
        said.metadata,
        said.retry_after_s,
    )


def test_a_failure_with_a_reason_is_no_broken_stream_though_the_reason_is_the_nodes_own() -> None:
    class RowFailed(Internal):
        reason = "ROW_FAILED"

    said = RowFailed("this row cannot be computed")
    error = node_error(failed(said.code, said.message, said), HOP, started=True)
    assert not isinstance(error, BrokenOff)
    assert (error.code, error.reason) == (Code.INTERNAL, "ROW_FAILED")


def test_envoys_word_that_no_node_is_ready_gets_the_models_name() -> None:
    said = ModelNotReady("", "")
    said.metadata = {}
    error = node_error(failed(Code.UNAVAILABLE, said.message, said), HOP)
    assert isinstance(error, ModelNotReady)
    assert "m@2" in error.message


def test_a_hop_sends_only_what_it_knows() -> None:
    assert HOP.metadata() == (("x-ringmesh-model", "m@2"),)
    whole = Hop(ModelReference("m", alias="a"), 1, affinity="k", session="s", request_id="r")
    assert dict(whole.metadata()) == {
        "x-ringmesh-model": "m@a",
        "x-ringmesh-affinity": "k",
        "x-session-id": "s",
        "x-request-id": "r",
    }
