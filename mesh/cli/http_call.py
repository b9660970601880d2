"""HTTP calls to the edge, as any client of the mesh makes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from mesh.cli.call import CallFailed

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 600.0
_SHOWN_CHARACTERS = 200


@contextmanager
def open_edge(edge: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Iterator[httpx.Client]:
    """A client of the edge whose failures come as `CallFailed`."""
    timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
    with httpx.Client(base_url=f"http://{edge}", timeout=timeout, trust_env=False) as client:
        try:
            yield client
        except httpx.HTTPError as error:
            raise CallFailed(
                f"The mesh at {edge} does not answer ({error}): is it up? `ringmesh status` shows "
                f"this machine's; --edge or RINGMESH_EDGE names another."
            ) from error


def require_success(answer: httpx.Response) -> None:
    """Raises `CallFailed` in the mesh's own words unless the answer is one."""
    if not answer.is_success:
        answer.read()
        raise CallFailed(f"{read_error(answer.text)} (status {answer.status_code})")


def read_error(body: str) -> str:
    """The message of an error body, in the shape of either protocol."""
    try:
        error: Any = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        first_line, *_ = body.strip().splitlines() or ["no explanation"]
        return first_line[:_SHOWN_CHARACTERS]
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def read_events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON events of a server-sent stream.

    Raises:
        CallFailed: the stream carries an error, or breaks off before its end.
    """
    for line in answer.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        event: dict[str, Any] = json.loads(data)
        if "error" in event:
            raise CallFailed(read_error(data))
        yield event
    raise CallFailed("The answer broke off before its end: try again.")
