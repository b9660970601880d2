"""The trace sink as a process: `python -m mesh.local.tracesink`."""

import asyncio
from contextlib import suppress

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from mesh.lifecycle import run, settings_or_exit
from mesh.local.tracesink.file_ring import FileRing
from mesh.local.tracesink.trace_servicer import TraceServicer
from mesh.server import ServiceBinding, serve
from mesh.settings import ServiceSettings
from mesh.telemetry import open_telemetry

TRACE_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


async def main(settings: ServiceSettings, stop: asyncio.Event) -> None:
    """Collects spans until told to stop."""
    servicer = TraceServicer()
    bindings = [
        ServiceBinding(
            TRACE_SERVICE, trace_service_pb2_grpc.add_TraceServiceServicer_to_server, servicer
        )
    ]
    # It traces nothing itself: its spans would make spans.
    with (
        open_telemetry("tracesink", "tracesink", otlp_endpoint=None) as telemetry,
        FileRing(settings.state_dir / "traces") as ring,
    ):
        writer = asyncio.create_task(servicer.run_writer(ring))
        async with serve(
            listen=settings.listen,
            services=bindings,
            telemetry=telemetry,
            drain_timeout_s=settings.drain_timeout_s,
            implementation=settings.grpc_server,
        ):
            await stop.wait()
        await servicer.drain()
        writer.cancel()
        with suppress(asyncio.CancelledError):
            await writer


if __name__ == "__main__":
    chosen = settings_or_exit(ServiceSettings)
    run("tracesink", lambda stop: main(chosen, stop), log_level=chosen.log_level)
