"""What grpcurl does: reflection and health, at the edge and at each service."""

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.e2e.harness import Mesh

OIP = "inference.GRPCInferenceService"
SERVICES = ["gateway", "inference", "registry", "config", "controlplane"]


def address(row: dict) -> str:
    return f"{row['Service']['Address']}:{row['Service']['Port']}"


def test_grpcio_reflection_client_reads_the_whole_service_at_the_edge(mesh: Mesh) -> None:
    with grpc.insecure_channel(mesh.edge) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert OIP in database.get_services()
        service = DescriptorPool(database).FindServiceByName(OIP)
        assert len(service.methods) == 20
        infer = service.methods_by_name["ModelInfer"]
        assert infer.input_type.fields_by_name["raw_input_contents"].number == 7


def test_health_at_the_edge(mesh: Mesh) -> None:
    with grpc.insecure_channel(mesh.edge) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=OIP), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=OIP), timeout=10)
        assert next(iter(watch)).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_is_registered_healthy_and_reflects(mesh: Mesh, service: str) -> None:
    rows = mesh.instances(service)
    assert len(rows) == (2 if service == "inference" else 1)
    for row in rows:
        with grpc.insecure_channel(address(row)) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            status = stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status
            assert status == health_pb2.HealthCheckResponse.SERVING
            watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
            assert next(iter(watch)).status == health_pb2.HealthCheckResponse.SERVING
            watch.cancel()
            names = ProtoReflectionDescriptorDatabase(channel).get_services()
            assert "grpc.health.v1.Health" in names
            assert len(names) > 2


def test_consul_shows_each_nodes_ready_versions_as_tags(mesh: Mesh) -> None:
    for row in mesh.instances("inference"):
        assert set(row["Service"]["Tags"]) >= {"smollm2@1", "minilm@1", "identity@1"}


def test_each_instance_has_a_grpc_check(mesh: Mesh) -> None:
    for service in SERVICES:
        for row in mesh.instances(service):
            assert "grpc" in {check["Type"] for check in row["Checks"]}
