"""Reads request bodies, never more than the limit: not from the wire, and not out of a gzip.

A body that is too large is refused by its Content-Length where there is one, else as soon as it has
grown too large; a compressed one is inflated piece by piece under the same limit.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import partial

from starlette.types import Receive

from mesh.errors import Cancelled, InvalidArgument, PayloadTooLarge
from services.gateway.http.long_work import carry_out

AUTO_DETECT = zlib.MAX_WBITS | 32
"""zlib tells gzip and deflate (RFC 9110: the zlib format) apart by their headers."""

LARGEST_RATIO = 1032
"""How many bytes one byte of deflate stands for at most: how many it does is known afterwards."""


async def read_body(receive: Receive, headers: Mapping[str, str], limit_bytes: int) -> bytes:
    """The whole body, inflated.

    Raises:
        PayloadTooLarge: it is larger than `limit_bytes`, before or after inflating.
        InvalidArgument: the encoding is unknown or broken.
        Cancelled: the client went away.
    """
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit_bytes:
        raise _too_large(limit_bytes)
    body = await _read(receive, limit_bytes)
    encoding = headers.get("content-encoding", "")
    if not encoding:
        return body
    work = partial(inflate, body, encoding, limit_bytes)
    return await carry_out(work, min(limit_bytes, len(body) * LARGEST_RATIO))


def inflate(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """The body as it was before it was compressed."""
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip" | "deflate":
            return _inflate(body, limit_bytes)
        case other:
            raise InvalidArgument(
                f"Content-Encoding {other[:40]!r} is not one of gzip, deflate, identity",
                field="Content-Encoding",
            )


async def _read(receive: Receive, limit_bytes: int) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return _bounded(message.get("body", b""), limit_bytes)
    chunks, size = [], 0
    while message["type"] == "http.request":
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()
    raise Cancelled("the client went away before its request was complete")


def _bounded(body: bytes, limit_bytes: int) -> bytes:
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    return body


def _inflate(body: bytes, limit_bytes: int) -> bytes:
    stream = zlib.decompressobj(AUTO_DETECT)
    try:
        plain = stream.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise InvalidArgument(
            f"the compressed body is broken: {error}", field="Content-Encoding"
        ) from None
    if len(plain) > limit_bytes:
        raise _too_large(limit_bytes)
    if not stream.eof or stream.unused_data:
        raise InvalidArgument(
            "the compressed body is cut short or has something after its end",
            field="Content-Encoding",
        )
    return plain


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than the {limit_bytes} bytes that are taken here")
