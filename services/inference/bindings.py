"""The services that a node's server offers."""

from __future__ import annotations

from opentelemetry.trace import Tracer

from mesh.oip_service import SERVICE
from mesh.pb import inference_pb2_grpc, node_pb2_grpc
from mesh.server import ServiceBinding
from services.inference.generate_servicer import NodeServicer
from services.inference.models.repository import Repository
from services.inference.models.residence import Residence
from services.inference.models.table import ModelTable
from services.inference.oip.oip_servicer import OipServicer

NODE_SERVICE = "ringmesh.node.v1.Node"


def make_bindings(
    node: str, table: ModelTable, residence: Residence, tracer: Tracer
) -> tuple[ServiceBinding, ...]:
    """The Open Inference Protocol, and the node's own service."""
    return (
        ServiceBinding(
            SERVICE,
            inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server,
            OipServicer(node, table, Repository(table, residence), tracer),
        ),
        ServiceBinding(
            NODE_SERVICE,
            node_pb2_grpc.add_NodeServicer_to_server,
            NodeServicer(node, table, tracer),
        ),
    )
