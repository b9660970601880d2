"""Models and versions over the wire: uploads, idempotency, numbers that never come twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from mesh.errors import (
    FailedPrecondition,
    InvalidArgument,
    ModelNotFound,
    PayloadTooLarge,
    error_from_rpc,
)
from mesh.pb import registry_pb2 as pb
from tests.integration.registry_rig import (
    MAX_BLOB_BYTES,
    TIMEOUT_S,
    RegistryRig,
    manifest,
    open_registry,
    sha256,
)

NOWHERE = "127.0.0.1:1"
"""No Consul: nothing of this needs one."""


@pytest.fixture(params=["native", "grpcio"])
async def registry(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[RegistryRig]:
    async with open_registry(tmp_path, NOWHERE, implementation=request.param) as rig:
        yield rig


async def failure(call) -> object:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return error_from_rpc(raised.value)


async def test_an_artefact_becomes_a_version_that_comes_back_whole(registry: RegistryRig) -> None:
    created = await registry.create("probe", {"b/two": b"22", "a": b"1"})
    assert (created.model, created.version) == ("probe", 1)
    assert [file.path for file in created.files] == ["a", "b/two"]
    for selector in ("", "1"):
        request = pb.GetModelVersionRequest(model="probe", version=selector)
        assert await registry.stub.GetModelVersion(request, timeout=TIMEOUT_S) == created
    (model,) = (await registry.stub.ListModels(pb.ListModelsRequest(), timeout=TIMEOUT_S)).models
    assert (model.name, model.task, list(model.versions)) == ("probe", "tensor", [1])


async def test_the_same_artefact_again_is_the_same_version(registry: RegistryRig) -> None:
    first = await registry.create("probe", {"a": b"1", "b": b"2"})
    assert await registry.create("probe", {"b": b"2", "a": b"1"}) == first
    other = await registry.create("probe", {"a": b"1"})
    assert (other.version, other.digest != first.digest) == (2, True)


async def test_creators_at_once_get_versions_of_their_own(registry: RegistryRig) -> None:
    created = await asyncio.gather(
        *(registry.create("probe", {"weights": bytes([n])}) for n in range(20))
    )
    assert sorted(version.version for version in created) == list(range(1, 21))


async def test_the_same_artefact_from_many_at_once_is_one_version(registry: RegistryRig) -> None:
    created = await asyncio.gather(*(registry.create("probe", {"w": b"same"}) for _ in range(10)))
    assert {version.version for version in created} == {1}


async def test_an_upload_in_parts_is_stored_once(registry: RegistryRig) -> None:
    parts = [bytes([n]) * 700_000 for n in range(4)]
    blob = await registry.upload(*parts)
    assert blob.size_bytes == 2_800_000
    assert await registry.upload(*parts) == blob
    held = await registry.stub.ListBlobs(
        pb.ListBlobsRequest(digests=[blob.digest, "0" * 64]), timeout=TIMEOUT_S
    )
    assert list(held.blobs) == [blob]


async def test_content_of_another_digest_is_refused(registry: RegistryRig) -> None:
    error = await failure(registry.upload(b"this", digest=sha256(b"that")))
    assert isinstance(error, InvalidArgument)
    assert error.field == "digest"
    assert not await registry.store.has(sha256(b"that"))


async def test_a_blob_over_the_limit_is_refused(registry: RegistryRig) -> None:
    parts = [b"x" * 1_000_000] * (MAX_BLOB_BYTES // 1_000_000 + 1)
    assert isinstance(await failure(registry.upload(*parts)), PayloadTooLarge)


async def test_an_upload_without_a_digest_is_refused(registry: RegistryRig) -> None:
    async def nothing() -> AsyncIterator[pb.UploadBlobRequest]:
        for request in ():
            yield request

    for call in (
        registry.upload(b"x", digest=""),
        registry.stub.UploadBlob(nothing(), timeout=TIMEOUT_S),
    ):
        error = await failure(call)
        assert isinstance(error, InvalidArgument)
        assert error.field == "digest"


async def test_a_version_whose_content_was_not_uploaded_is_refused(registry: RegistryRig) -> None:
    request = pb.CreateModelVersionRequest(manifest_json=manifest("probe"))
    request.files.add(path="weights", digest="a" * 64, size_bytes=1)
    error = await failure(registry.stub.CreateModelVersion(request, timeout=TIMEOUT_S))
    assert isinstance(error, FailedPrecondition)
    assert "weights" in error.message
    assert error.metadata["digest"] == "a" * 64


async def test_a_size_that_is_not_the_contents_is_refused(registry: RegistryRig) -> None:
    await registry.upload(b"four")
    request = pb.CreateModelVersionRequest(manifest_json=manifest("probe"))
    request.files.add(path="weights", digest=sha256(b"four"), size_bytes=5)
    error = await failure(registry.stub.CreateModelVersion(request, timeout=TIMEOUT_S))
    assert isinstance(error, InvalidArgument)
    assert error.field == "files.size_bytes"


@pytest.mark.parametrize(
    ("manifest_json", "path", "field"),
    [
        ('{"name": "p", "task": "tensor", "format": "identity", "x": 1}', "a", "manifest_json.x"),
        ("{", "a", "manifest_json"),
        (manifest("p"), "../a", "files[0].path"),
        (manifest("p"), "/a", "files[0].path"),
        (manifest("p"), "", "files[0].path"),
    ],
)
async def test_a_wrong_artefact_is_refused_where_it_is_wrong(
    registry: RegistryRig, manifest_json: str, path: str, field: str
) -> None:
    request = pb.CreateModelVersionRequest(manifest_json=manifest_json)
    request.files.add(path=path, digest="a" * 64, size_bytes=1)
    error = await failure(registry.stub.CreateModelVersion(request, timeout=TIMEOUT_S))
    assert isinstance(error, InvalidArgument)
    assert error.field == field


async def test_a_file_that_cannot_be_a_model_is_refused_by_name(registry: RegistryRig) -> None:
    for content in (b"", b"no graph"):
        error = await failure(
            registry.create("net", {"a.txt": b"", "net.onnx": content}, format_="onnx")
        )
        assert isinstance(error, InvalidArgument)
        assert error.message.startswith("'net.onnx' is ")
        assert error.field == "files[1]"
    assert (await registry.create("echo", {"net.onnx": b""})).version == 1


async def test_what_does_not_exist_is_said_with_what_was_perhaps_meant(
    registry: RegistryRig,
) -> None:
    await registry.create("minilm")
    error = await failure(
        registry.stub.GetModel(pb.GetModelRequest(name="minilmm"), timeout=TIMEOUT_S)
    )
    assert isinstance(error, ModelNotFound)
    assert "did you mean 'minilm'?" in error.message
    request = pb.GetModelVersionRequest(model="minilm", version="7")
    error = await failure(registry.stub.GetModelVersion(request, timeout=TIMEOUT_S))
    assert isinstance(error, ModelNotFound)
    assert error.metadata["model"] == "minilm@7"


async def test_a_model_keeps_its_task(registry: RegistryRig) -> None:
    await registry.create("probe")
    other = '{"name": "probe", "task": "text-generation", "format": "gguf"}'
    request = pb.CreateModelVersionRequest(manifest_json=other)
    error = await failure(registry.stub.CreateModelVersion(request, timeout=TIMEOUT_S))
    assert isinstance(error, FailedPrecondition)
