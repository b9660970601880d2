"""An error crosses a process as its own type, with its facts."""

import base64
from urllib.parse import quote

import grpc
import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

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
    shorten,
)

CLIENTS_LIMIT_BYTES = 8192

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


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.integers(1, 5000))
def test_a_status_fits_a_trailer_whatever_is_said(text: str, times: int) -> None:
    field = f"inputs.{text * times}"
    error = InvalidArgument(f"{field}: model 'm' takes FP32, not INT8", field=field)
    status = error_to_status(error)
    sent = quote(status.message), base64.b64encode(status.SerializeToString())
    assert sum(map(len, sent)) < CLIENTS_LIMIT_BYTES
    back = error_from_status(status)
    assert type(back) is InvalidArgument
    assert back.message.startswith("inputs.")
    assert back.message.endswith(": model 'm' takes FP32, not INT8")


@given(st.text(st.characters(exclude_characters=" ", codec="utf-8")), st.integers(10, 40))
def test_what_is_too_long_keeps_its_beginning_and_its_end(text: str, most_bytes: int) -> None:
    short = shorten(text, most_bytes)
    assert len(short.encode()) <= most_bytes
    assert (short == text) == (len(text.encode()) <= most_bytes)
    head, _, tail = short.partition(" ... ")
    assert text.startswith(head)
    assert text.endswith(tail)


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
