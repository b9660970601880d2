"""A node in the test's own process: its real table and servicers behind a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mesh.channel import open_channel
from mesh.deployment import ArtefactFile, Assignment, VersionSpec
from mesh.manifest import Manifest
from mesh.pb import inference_pb2_grpc
from mesh.server import serve
from mesh.store import digest_of
from mesh.telemetry import open_telemetry
from services.inference.bindings import make_bindings
from services.inference.models.loaded_model import LoadedModel
from services.inference.models.residence import Residence
from services.inference.models.state import Change
from services.inference.models.table import ModelTable

NODE = "node-a"


@dataclass
class NodeRig:
    """A serving node, a stub to it, and the spans that it has finished."""

    table: ModelTable
    address: str
    stub: Any
    exporter: InMemorySpanExporter

    async def spans(self, root: str) -> dict[str, ReadableSpan]:
        """The finished spans by name, once the call's own is among them."""
        while True:
            spans = {span.name: span for span in self.exporter.get_finished_spans()}
            if root in spans:
                return spans
            await asyncio.sleep(0)


def hold(table: ModelTable, model: LoadedModel) -> None:
    """Puts a loaded model into the table as a load would."""
    key = (model.name, model.version)
    table.place(key)
    table.change(key, Change.LOAD_BEGAN)
    table.change(key, Change.LOADED, loaded=model)


@asynccontextmanager
async def open_node(
    models: Sequence[LoadedModel],
    implementation: Literal["native", "grpcio"] = "native",
    *,
    name: str = NODE,
) -> AsyncIterator[NodeRig]:
    """A node that holds these models; it closes them."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with AsyncExitStack() as stack:
        plain = stack.enter_context(open_telemetry("test", "test-1", otlp_endpoint=None))
        telemetry = replace(plain, tracer=provider.get_tracer("test"))
        table = await stack.enter_async_context(aclosing(ModelTable()))
        for model in models:
            hold(table, model)
        server = await stack.enter_async_context(
            serve(
                listen="127.0.0.1:0",
                services=make_bindings(name, table, Residence(), telemetry.tracer),
                telemetry=telemetry,
                implementation=implementation,
                drain_timeout_s=1,
            )
        )
        address = f"127.0.0.1:{server.port}"
        channel: grpc.aio.Channel = await stack.enter_async_context(open_channel(address, plain))
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        yield NodeRig(table, address, stub, exporter)


def spec_of(manifest: Manifest, version: int = 1, *files: ArtefactFile) -> VersionSpec:
    """A version of that manifest; its digest tells versions apart."""
    return VersionSpec(version=version, digest=f"{version:064x}", manifest=manifest, files=files)


def assignment_of(manifest: Manifest, version: int = 1, *files: ArtefactFile) -> Assignment:
    """The same, assigned to a node."""
    return Assignment(model=manifest.name, spec=spec_of(manifest, version, *files))


def artefact_files(folder: Path) -> tuple[ArtefactFile, ...]:
    """The files of a folder, as a registry would list them."""
    return tuple(
        ArtefactFile(
            path=path.relative_to(folder).as_posix(),
            digest=digest_of(path),
            size_bytes=path.stat().st_size,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
