"""Retries of our own control calls (Consul, registry). Requests are retried by Envoy alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from tenacity import (
    AsyncRetrying,
    AttemptManager,
    retry_if_exception_type,
    stop_after_delay,
    stop_never,
    wait_exponential,
    wait_random,
)

from mesh.errors import Unavailable


async def attempts(
    *,
    within_s: float | None,
    first_wait_s: float = 0.1,
    max_wait_s: float = 2.0,
    on: type[BaseException] | tuple[type[BaseException], ...] = Unavailable,
    before: Callable[[object], None] | None = None,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[AttemptManager]:
    """The attempts of one control call, each to be entered: `with attempt: await call()`.

    An attempt that raises one of `on` is followed by another after an exponential, jittered wait;
    after `within_s` (None: never) the last error is raised as it is. `pause` does the waiting, and
    may end early.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(on),
        stop=stop_never if within_s is None else stop_after_delay(within_s),
        wait=wait_exponential(multiplier=first_wait_s, max=max_wait_s)
        + wait_random(0, first_wait_s),
        before_sleep=before,
        sleep=pause,
        reraise=True,
    )
    async for attempt in retrying:
        yield attempt
