"""A node that computes nothing: it answers with its own name and the headers that it received.

A process of its own, so that a test can kill it: `python echo_node.py <id> <consul> <tag>...`.
"""

from __future__ import annotations

import asyncio
import sys

from mesh.catalog import Catalog, Instance
from mesh.errors import DeadlineTooShort
from mesh.lifecycle import run
from mesh.pb import inference_pb2, inference_pb2_grpc, node_pb2, node_pb2_grpc
from mesh.server import ServiceBinding, serve
from mesh.telemetry import open_telemetry


class EchoServicer(inference_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, name: str) -> None:
        self.name = name

    async def ModelInfer(self, request, context):  # noqa: N802
        delay_ms = request.parameters["delay_ms"].int64_param
        await asyncio.sleep(delay_ms / 1000)
        if request.parameters["too_late"].bool_param:
            raise DeadlineTooShort("no time")
        headers = dict(context.invocation_metadata())
        response = inference_pb2.ModelInferResponse(
            model_name=self.name,
            model_version=headers.get("x-ringmesh-version", ""),
            id=request.id,
        )
        for key, value in headers.items():
            if isinstance(value, str):
                response.parameters[key].string_param = value
        return response

    async def ModelMetadata(self, request, context):  # noqa: N802
        return inference_pb2.ModelMetadataResponse(name=self.name)


class StreamServicer(node_pb2_grpc.NodeServicer):
    def __init__(self, name: str) -> None:
        self.name = name

    async def Generate(self, request, context):  # noqa: N802
        yield node_pb2.GenerateResponse(started=node_pb2.Started(node=self.name))
        for number in range(request.max_tokens):
            await asyncio.sleep(0.01)
            yield node_pb2.GenerateResponse(delta=node_pb2.Delta(text=str(number)))
        yield node_pb2.GenerateResponse(finished=node_pb2.Finished())


def bindings(name: str) -> list[ServiceBinding]:
    add_infer = inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server
    add_node = node_pb2_grpc.add_NodeServicer_to_server
    return [
        ServiceBinding("inference.GRPCInferenceService", add_infer, EchoServicer(name)),
        ServiceBinding("ringmesh.node.v1.Node", add_node, StreamServicer(name)),
    ]


async def main(stop: asyncio.Event, name: str, consul: str, tags: list[str]) -> None:
    with open_telemetry("inference", name, otlp_endpoint=None) as telemetry:
        async with (
            Catalog.open(consul) as catalog,
            serve(listen="127.0.0.1:0", services=bindings(name), telemetry=telemetry) as server,
            catalog.registered(
                Instance(
                    f"inference-{name}",
                    "inference",
                    "127.0.0.1",
                    server.port,
                    frozenset(tags),
                    {"node": name},
                )
            ),
        ):
            await stop.wait()


if __name__ == "__main__":
    node, address, *held = sys.argv[1:]
    run("echo", lambda stop: main(stop, node, address, held))
