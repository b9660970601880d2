"""Channels to other services: trace context out, a span per call, keepalive, large messages."""

from __future__ import annotations

import grpc

from mesh.interceptors import client_interceptors
from mesh.server import MAX_MESSAGE_BYTES
from mesh.telemetry import Telemetry


def open_channel(
    target: str, telemetry: Telemetry, *, max_message_bytes: int = MAX_MESSAGE_BYTES
) -> grpc.aio.Channel:
    """A channel to `target`; use it as an async context manager, it closes on exit."""
    return grpc.aio.insecure_channel(
        target,
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            # A restarted peer is found again quickly: the default backs off to two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            # Retries belong to Envoy; exactly one layer retries.
            ("grpc.enable_retries", 0),
        ],
        interceptors=client_interceptors(telemetry.tracer),
    )
