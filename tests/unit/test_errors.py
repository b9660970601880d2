"""An error crosses a process as its own type, with its facts."""

import grpc
import pytest
from google.rpc import status_pb2

from mesh import errors
from mesh.errors import (
    InvalidArgument,
    ModelNotFound,
    ModelNotReady,
    PayloadTooLarge,
    QueueFull,
    RemoteError,
    RingmeshError,
    error_from_status,
    error_http_status,
    error_to_status,
    http_status,
)

EXAMPLES = [
    InvalidArgument("shape must not be negative", field="inputs[0].shape"),
    ModelNotFound("nope", "there are: minilm, smollm2"),
    ModelNotReady("minilm", "LOADING", "fetching"),
    QueueFull("64 requests are waiting", retry_after_s=0.25),
    PayloadTooLarge("the body has 209715200 bytes, at most 67108864 are taken"),
    *(
        kind("it failed")
        for kind in (
            errors.NotFound,
            errors.Conflict,
            errors.AlreadyExists,
            errors.FailedPrecondition,
            errors.Unavailable,
            errors.Unimplemented,
            errors.Internal,
            errors.Cancelled,
            errors.DeadlineTooShort,
            errors.DeadlineExceeded,
        )
    ),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_wire(error: RingmeshError) -> None:
    wire = error_to_status(error).SerializeToString()
    back = error_from_status(status_pb2.Status.FromString(wire))
    assert type(back) is type(error)
    assert back.message == error.message
    assert back.metadata == error.metadata
    assert back.retry_after_s == error.retry_after_s
    assert back.code is error.code


def test_a_foreign_status_keeps_code_and_message() -> None:
    back = error_from_status(status_pb2.Status(code=7, message="no"))
    assert isinstance(back, RemoteError)
    assert (back.code, back.message) == (grpc.StatusCode.PERMISSION_DENIED, "no")


class Burnt(errors.Internal):
    """A type that only the process has that raises it."""

    reason = "BURNT"


def test_an_error_of_the_mesh_keeps_a_reason_that_is_not_known_here() -> None:
    back = error_from_status(error_to_status(Burnt("it burnt", metadata={"where": "here"})))
    assert not isinstance(back, RemoteError)
    assert (back.code, back.reason, back.message) == (Burnt.code, "BURNT", "it burnt")
    assert error_to_status(back) == error_to_status(Burnt("it burnt", metadata={"where": "here"}))


def test_a_code_out_of_range_is_unknown() -> None:
    assert error_from_status(status_pb2.Status(code=99)).code is grpc.StatusCode.UNKNOWN


def test_every_code_has_an_http_status() -> None:
    assert {http_status(code) for code in grpc.StatusCode} >= {200, 400, 404, 429, 500, 503, 504}


def test_too_large_is_413_and_a_full_queue_429() -> None:
    assert error_http_status(PayloadTooLarge("x")) == 413
    assert error_http_status(QueueFull("x", retry_after_s=1)) == 429
