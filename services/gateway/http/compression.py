"""Compresses answers for clients that ask for it."""

from __future__ import annotations

import gzip
import zlib
from functools import partial

from services.gateway.http.long_work import carry_out

LEVEL = 1
"""Tensors compress little; what a higher level gains it does not pay for."""


def accepted_encoding(accept: str) -> str | None:
    """The first of gzip and deflate that an Accept-Encoding header allows, None for neither."""
    offered = [part.strip().lower().partition(";") for part in accept.split(",")]
    refused = {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    allowed = [name for name, _, weight in offered if weight.replace(" ", "") not in refused]
    return next((name for name in allowed if name in ("gzip", "deflate")), None)


async def compress(body: bytes, encoding: str) -> bytes:
    """The body in the given encoding."""
    work = _gzip if encoding == "gzip" else _deflate
    return await carry_out(partial(work, body), len(body))


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, LEVEL, mtime=0)


def _deflate(body: bytes) -> bytes:
    return zlib.compress(body, LEVEL)
