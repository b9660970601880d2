"""Consul being away: which failures mean it, and what callers are told."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import aiohttp
from consul import ConsulException

from mesh.errors import Unavailable

LOST = (aiohttp.ClientError, ConsulException, OSError, TimeoutError)
FIRST_RETRY_S = 0.1
RETRY_MAX_S = 3.0

T = TypeVar("T")


async def mapped(call: Awaitable[T]) -> T:
    """The answer; `Unavailable` where there is none."""
    try:
        return await call
    except LOST as error:
        raise Unavailable(f"Consul does not answer: {error}") from error
