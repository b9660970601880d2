"""Tensors in system shared memory, with unmodified clients on the same host."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException, shared_memory

from tests.e2e.harness import Mesh

VALUES = np.arange(16, dtype=np.float32)


@pytest.fixture(params=["grpc", "http"])
def triton(request: pytest.FixtureRequest):
    return triton_grpc if request.param == "grpc" else triton_http


@pytest.fixture
def region() -> Iterator[object]:
    handle = shared_memory.create_shared_memory_region("both", "/ringmesh-test", 128)
    shared_memory.set_shared_memory_region(handle, [VALUES])
    yield handle
    shared_memory.destroy_shared_memory_region(handle)


def test_tensors_travel_through_shared_memory(mesh: Mesh, triton, region) -> None:
    with triton.InferenceServerClient(mesh.edge) as client:
        client.register_system_shared_memory("both", "/ringmesh-test", 128)
        try:
            status = client.get_system_shared_memory_status()
            assert "ringmesh-test" in str(status)
            sent = triton.InferInput("x", [16], "FP32")
            sent.set_shared_memory("both", 64)
            wanted = triton.InferRequestedOutput("x")
            wanted.set_shared_memory("both", 64, offset=64)
            result = client.infer("identity", [sent], outputs=[wanted])
            assert "shared_memory_region" in str(result.get_output("x"))
            came = shared_memory.get_contents_as_numpy(region, np.float32, [16], offset=64)
            assert came.tolist() == VALUES.tolist()
            with pytest.raises(InferenceServerException, match="registered already"):
                client.register_system_shared_memory("both", "/ringmesh-test", 128)
        finally:
            client.unregister_system_shared_memory("both")
        with pytest.raises(InferenceServerException, match="no shared memory region"):
            client.infer("identity", [sent])


def test_an_output_that_does_not_fit_is_refused(mesh: Mesh, triton, region) -> None:
    with triton.InferenceServerClient(mesh.edge) as client:
        client.register_system_shared_memory("both", "/ringmesh-test", 128)
        try:
            sent = triton.InferInput("x", [16], "FP32")
            sent.set_data_from_numpy(VALUES)
            wanted = triton.InferRequestedOutput("x")
            wanted.set_shared_memory("both", 32)
            with pytest.raises(InferenceServerException, match="64 bytes"):
                client.infer("identity", [sent], outputs=[wanted])
        finally:
            client.unregister_system_shared_memory()


def test_cuda_shared_memory_is_refused_by_name(mesh: Mesh, triton) -> None:
    with triton.InferenceServerClient(mesh.edge) as client:
        with pytest.raises(InferenceServerException, match="not offered") as caught:
            client.register_cuda_shared_memory("r", b"aGFuZGxl", 0, 8)
        assert caught.value.status() in ("501", "StatusCode.UNIMPLEMENTED")
        named = client.get_server_metadata()
        extensions = named["extensions"] if isinstance(named, dict) else named.extensions
        assert "cuda_shared_memory" not in extensions
