"""The one error tree of the mesh, and how it crosses a process.

The gRPC status is the truth. A `RingmeshError` raised in a servicer becomes its status code, its
message, and a `google.rpc.Status` in the trailer (`grpc-status-details-bin`) that carries an
`ErrorInfo` with a stable reason; the caller's side turns that back into the same type. HTTP codes
are derived from the gRPC code in one table. Nobody matches on message text.
"""

from __future__ import annotations

from typing import ClassVar

import grpc
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "ringmesh"
DETAILS_KEY = "grpc-status-details-bin"

Code = grpc.StatusCode

MAX_TEXT_BYTES = 1024
MAX_FACT_BYTES = 256
"""Clients take trailers of 8 KB, and with more see RESOURCE_EXHAUSTED in place of the error. The
message stands there three times, once with three bytes for each that is not ASCII."""

_CUT = " ... "


class RingmeshError(Exception):
    """A failure with a status code, a stable reason and facts about it.

    `retry_after_s` is set where the caller may try again and we know when.
    """

    code: ClassVar[grpc.StatusCode] = Code.UNKNOWN
    reason: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        metadata: dict[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata or {}
        self.retry_after_s = retry_after_s

    @property
    def field(self) -> str | None:
        """The request field at fault, if one is."""
        return self.metadata.get("field")


class InvalidArgument(RingmeshError):
    """The request is wrong, whatever the state of the system; `field` names where."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message, metadata={"field": field})


class PayloadTooLarge(RingmeshError):
    """The request is larger than this mesh takes."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "PAYLOAD_TOO_LARGE"


class NotFound(RingmeshError):
    """The thing that the request names does not exist."""

    code = Code.NOT_FOUND
    reason = "NOT_FOUND"


class ModelNotFound(NotFound):
    """No such model, version or alias."""

    reason = "MODEL_NOT_FOUND"

    def __init__(self, model: str, hint: str = "") -> None:
        text = f"model '{model}' does not exist"
        super().__init__(f"{text}; {hint}" if hint else text, metadata={"model": model})


class ModelNotReady(RingmeshError):
    """The model exists and cannot answer yet, or no longer."""

    code = Code.UNAVAILABLE
    reason = "MODEL_NOT_READY"

    def __init__(self, model: str, state: str, why: str = "") -> None:
        text = f"model '{model}' is {state}"
        super().__init__(
            f"{text}: {why}" if why else text, metadata={"model": model, "state": state}
        )


class QueueFull(RingmeshError):
    """More work is waiting than the queue takes; come back in `retry_after_s`."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "QUEUE_FULL"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class DeadlineTooShort(RingmeshError):
    """The deadline cannot be met, so the work was not begun."""

    code = Code.DEADLINE_EXCEEDED
    reason = "DEADLINE_TOO_SHORT"


class DeadlineExceeded(RingmeshError):
    """The deadline passed while the work was going on."""

    code = Code.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class Conflict(RingmeshError):
    """Somebody else changed it first; read again and decide again."""

    code = Code.ABORTED
    reason = "CONFLICT"


class AlreadyExists(RingmeshError):
    """What the request creates is there already, and different."""

    code = Code.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"


class FailedPrecondition(RingmeshError):
    """The system is not in a state in which this can be done; change that first."""

    code = Code.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class Unavailable(RingmeshError):
    """A part that this needs does not answer now; trying again may help."""

    code = Code.UNAVAILABLE
    reason = "UNAVAILABLE"


class Unimplemented(RingmeshError):
    """This mesh does not do that."""

    code = Code.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"


class Cancelled(RingmeshError):
    """The caller went away."""

    code = Code.CANCELLED
    reason = "CANCELLED"


class Internal(RingmeshError):
    """Our fault."""

    code = Code.INTERNAL
    reason = "INTERNAL"


class RemoteError(RingmeshError):
    """A status from another process that is not of this tree: code and message as they came."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # this one error has its code per instance
        self.reason = code.name  # type: ignore[misc]


_BY_REASON: dict[str, type[RingmeshError]] = {
    kind.reason: kind
    for kind in (
        InvalidArgument,
        PayloadTooLarge,
        NotFound,
        ModelNotFound,
        ModelNotReady,
        QueueFull,
        DeadlineTooShort,
        DeadlineExceeded,
        Conflict,
        AlreadyExists,
        FailedPrecondition,
        Unavailable,
        Unimplemented,
        Cancelled,
        Internal,
    )
}

# google/rpc/code.proto gives the HTTP mapping of each code.
_HTTP_STATUS: dict[grpc.StatusCode, int] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


def http_status(code: grpc.StatusCode) -> int:
    """The HTTP status that stands for a gRPC status (google/rpc/code.proto)."""
    return _HTTP_STATUS[code]


def error_http_status(error: RingmeshError) -> int:
    """The HTTP status of an error: that of its code, but 413 where the size is at fault."""
    return 413 if error.reason == PayloadTooLarge.reason else http_status(error.code)


def error_to_status(error: RingmeshError) -> status_pb2.Status:
    """The error as `google.rpc.Status`, with `ErrorInfo`, `BadRequest` and `RetryInfo` details.

    What is too long for a trailer has its middle cut out.
    """
    message = shorten(error.message, MAX_TEXT_BYTES)
    status = status_pb2.Status(code=error.code.value[0], message=message)
    facts = {key: shorten(value, MAX_FACT_BYTES) for key, value in error.metadata.items()}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts)
    status.details.add().Pack(info)
    if "field" in facts:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=facts["field"], description=message
        )
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def shorten(text: str, most_bytes: int) -> str:
    """The text if it has no more bytes than this, else its beginning and its end."""
    data = text.encode()
    if len(data) <= most_bytes:
        return text
    room = most_bytes - len(_CUT)
    head, tail = data[: room - room // 3], data[len(data) - room // 3 :]
    return head.decode(errors="ignore") + _CUT + tail.decode(errors="ignore")


def error_from_status(status: status_pb2.Status) -> RingmeshError:
    """The error that a `google.rpc.Status` stands for; `RemoteError` if it is not one of ours."""
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    retry_after_s: float | None = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    if info.domain != DOMAIN:
        return RemoteError(_code_of(status.code), status.message)
    kind = _BY_REASON.get(info.reason, RingmeshError)
    # Past the constructors of the subclasses: the message is already the finished sentence.
    error = kind.__new__(kind)
    RingmeshError.__init__(
        error, status.message, metadata=dict(info.metadata), retry_after_s=retry_after_s
    )
    if kind is RingmeshError:  # a reason that only the other process has a type for
        error.code, error.reason = _code_of(status.code), info.reason  # type: ignore[misc]
    return error


def error_from_rpc(error: grpc.aio.AioRpcError) -> RingmeshError:
    """The error that a failed call stands for."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return error_from_status(status_pb2.Status.FromString(value))
    return RemoteError(error.code(), error.details() or error.code().name)


def _code_of(number: int) -> grpc.StatusCode:
    known = {code.value[0]: code for code in grpc.StatusCode}
    return known.get(number, known[code_pb2.UNKNOWN])
