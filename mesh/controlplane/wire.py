"""The protobuf side of a delta stream: requests in, responses out."""

from __future__ import annotations

from typing import Any

from mesh.controlplane.snapshot import ResourceType
from mesh.controlplane.subscription import Request, Response
from mesh.controlplane.xds.messages import message_class

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHOD = "DeltaAggregatedResources"
REQUEST = "envoy.service.discovery.v3.DeltaDiscoveryRequest"
RESPONSE = "envoy.service.discovery.v3.DeltaDiscoveryResponse"

_KINDS = {kind.value: kind for kind in ResourceType}


def parse_request(data: bytes) -> Any:
    """The request's message."""
    return message_class(REQUEST).FromString(data)


def read_request(message: Any) -> Request | None:
    """What a request says; None about a kind that this control plane does not serve."""
    kind = _KINDS.get(message.type_url)
    if kind is None:
        return None
    return Request(
        kind,
        subscribe=frozenset(message.resource_names_subscribe),
        unsubscribe=frozenset(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
    )


def write_response(response: Response, system_version: str) -> bytes:
    """The response as it goes out."""
    message = message_class(RESPONSE)(
        type_url=response.kind.value,
        nonce=response.nonce,
        system_version_info=system_version,
        removed_resources=response.removed,
    )
    for each in response.resources:
        resource = message.resources.add(name=each.name, version=each.version)
        resource.resource.type_url = response.kind.value
        resource.resource.value = each.body
    encoded: bytes = message.SerializeToString()
    return encoded
