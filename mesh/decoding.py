"""Requests that are not the message which a method takes: the caller's fault, told like any other.

Left to themselves the two server implementations answer such bytes before any interceptor sees the
call, one with UNKNOWN and one with INTERNAL, in words of their own. So decoding never fails here:
it hands on what stands for the failure, and the method's scope raises that.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from mesh.errors import InvalidArgument

FIELD = "message"
"""What is at fault where no field of the message can be named."""


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Stands for a request that could not be read."""

    why: str


def forgiving(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """The same deserializer, but for its failure, which it returns."""
    if deserialize is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError as error:
            return Undecodable(str(error))

    return read


def decoded(request: Any) -> Any:
    """The request itself.

    Raises:
        InvalidArgument: it could not be read.
    """
    if isinstance(request, Undecodable):
        raise InvalidArgument(f"{FIELD}: cannot be decoded: {request.why}", field=FIELD)
    return request


async def each_decoded(requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    """The requests of a stream, up to the first that could not be read."""
    async for request in requests:
        yield decoded(request)
