"""What servers of the protocol offer is what they have, and the rest is refused by name."""

from __future__ import annotations

import pytest

from mesh.errors import Unimplemented
from mesh.oip_service import OipMethods, method_extensions, server_metadata
from services.gateway.oip_servicer import OipServicer as GatewayServicer
from services.gateway.oip_servicer import describe_server
from services.inference.oip.oip_servicer import OipServicer as NodeServicer


class Counting(OipMethods):
    async def ModelStatistics(self, request, context): ...  # noqa: N802

    async def TraceSetting(self, request, context): ...  # noqa: N802

    async def RepositoryIndex(self, request, context): ...  # noqa: N802


def test_an_extension_is_offered_by_whoever_has_all_of_its_methods() -> None:
    assert method_extensions(OipMethods) == ()
    assert set(method_extensions(Counting)) == {"statistics", "trace"}
    for servicer in (NodeServicer, GatewayServicer):
        assert {"statistics", "model_configuration"} <= set(method_extensions(servicer))


async def test_a_method_that_is_not_there_is_refused_by_name() -> None:
    servicer = Counting()
    with pytest.raises(Unimplemented, match="CudaSharedMemoryRegister is not offered"):
        await servicer.CudaSharedMemoryRegister(None, None)
    assert not hasattr(servicer, "NoSuchMethod")


def test_the_metadata_names_server_version_and_extensions() -> None:
    metadata = server_metadata(("b", "a"))
    assert (metadata.name, list(metadata.extensions)) == ("ringmesh", ["a", "b"])
    assert metadata.version
    assert "binary_tensor_data" in describe_server().extensions
