"""Envoy's protobuf messages, built from plain dictionaries.

The messages come from one committed descriptor set in a pool of their own, so that no package of
Envoy's generated code is needed (it overwrites other packages' files) and nothing collides with the
default pool. Parsing is strict: an unknown field or a wrong type is an error here, before Envoy
sees it. What the messages mean is not known here.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

TYPE_URL_PREFIX = "type.googleapis.com/"
DESCRIPTORS = Path(__file__).with_name("descriptors.bin")

Spec = Mapping[str, Any]
"""A message as protobuf JSON, fields under their original names."""


class BadSpec(ValueError):
    """A dictionary that is not the message it claims to be."""


@cache
def xds_pool() -> DescriptorPool:
    """Envoy's API; read once, in a few milliseconds."""
    pool = DescriptorPool()
    files = FileDescriptorSet.FromString(zlib.decompress(DESCRIPTORS.read_bytes()))
    for file in files.file:
        pool.Add(file)
    return pool


def message_class(name: str) -> Any:
    """The class of the message with this full name."""
    return GetMessageClass(xds_pool().FindMessageTypeByName(name))


def make_message(name: str, spec: Spec) -> Any:
    """The message `name` that `spec` describes; raises `BadSpec` naming what is wrong."""
    try:
        return json_format.ParseDict(dict(spec), message_class(name)(), descriptor_pool=xds_pool())
    except (json_format.ParseError, KeyError) as error:
        raise BadSpec(f"{name}: {error}") from error


def encode(type_url: str, spec: Spec) -> bytes:
    """The message that `spec` describes, as it goes into an `Any` of that type."""
    message = make_message(type_url.removeprefix(TYPE_URL_PREFIX), spec)
    encoded: bytes = message.SerializeToString(deterministic=True)
    return encoded


def typed(name: str, **fields: Any) -> dict[str, Any]:
    """A spec that says its own type, for fields of type `Any`."""
    return {"@type": f"{TYPE_URL_PREFIX}{name}", **fields}
