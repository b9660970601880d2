"""Who asks, as far as routing needs to know: session, request id, and how long they wait."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mesh.deadline import HasDeadline, remaining_s

SESSION_HEADER = "x-session-id"
REQUEST_ID_HEADER = "x-request-id"
EXPECTED_TIMEOUT_HEADER = "x-envoy-expected-rq-timeout-ms"
"""How long Envoy will wait for the answer; absent on routes without a timeout."""

FORWARDED_HEADER = "x-forwarded-for"
"""The edge puts the address of whoever connected to it last."""

_CARRIED = (SESSION_HEADER, REQUEST_ID_HEADER, FORWARDED_HEADER)


@dataclass(frozen=True, slots=True)
class Caller:
    """The facts about a request that are the same in every protocol."""

    session: str | None = None
    request_id: str | None = None
    timeout_s: float | None = None
    address: str | None = None
    """Where the caller connected from, if it came through the edge."""

    def time_remaining(self) -> float | None:
        """Seconds that the caller waits from now on, None without a deadline."""
        return self.timeout_s


def caller_from_metadata(
    metadata: Iterable[tuple[str, str | bytes]] | None, context: HasDeadline
) -> Caller:
    """The caller of a gRPC method."""
    found = {key: value for key, value in metadata or () if key in _CARRIED}
    return Caller(
        session=_text(found.get(SESSION_HEADER)),
        request_id=_text(found.get(REQUEST_ID_HEADER)),
        timeout_s=remaining_s(context),
        address=_last(_text(found.get(FORWARDED_HEADER))),
    )


def caller_from_headers(headers: Iterable[tuple[bytes, bytes]]) -> Caller:
    """The caller of an HTTP route, from ASGI's headers (names in lower case)."""
    found = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers}
    timeout_ms = found.get(EXPECTED_TIMEOUT_HEADER, "")
    return Caller(
        session=found.get(SESSION_HEADER),
        request_id=found.get(REQUEST_ID_HEADER),
        timeout_s=int(timeout_ms) / 1000 if timeout_ms.isdecimal() else None,
        address=_last(found.get(FORWARDED_HEADER)),
    )


def _text(value: str | bytes | None) -> str | None:
    return value if isinstance(value, str) else None


def _last(addresses: str | None) -> str | None:
    return None if addresses is None else addresses.rpartition(",")[2].strip()
