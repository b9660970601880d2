"""Deployments: from what was asked to the document in Consul, whatever fails in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from mesh.catalog import Catalog
from mesh.deployment import DEPLOYMENTS_PREFIX
from mesh.errors import (
    FailedPrecondition,
    InvalidArgument,
    ModelNotFound,
    NotFound,
    RingmeshError,
    error_from_rpc,
)
from mesh.pb import registry_pb2 as pb
from services.registry import changes
from services.registry.records import Target
from tests.integration.consul_rig import ConsulRig, eventually
from tests.integration.registry_rig import TIMEOUT_S, RegistryRig, open_registry, published


@pytest.fixture
async def registry(consul: ConsulRig, tmp_path: Path) -> AsyncIterator[RegistryRig]:
    async with open_registry(tmp_path, consul.address) as rig:
        yield rig


async def failure(call) -> RingmeshError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return error_from_rpc(raised.value)


async def three_versions(registry: RegistryRig) -> None:
    for content in (b"1", b"2", b"3"):
        await registry.create("probe", {"weights": content})


async def test_a_deployment_reaches_consul_with_all_that_loading_takes(
    registry: RegistryRig, catalog: Catalog
) -> None:
    await three_versions(registry)
    answer = await registry.deploy("probe", {"1": 90, "2": 10}, replicas=3)
    assert (answer.revision, answer.replicas, answer.published) == (1, 3, True)
    found = await published(catalog, "probe")
    assert found is not None
    assert {target.version: target.weight for target in found.targets} == {1: 90, 2: 10}
    assert (found.revision, found.replicas, set(found.versions)) == (1, 3, {1, 2})
    assert [file.path for file in found.versions[2].files] == ["weights"]
    request = pb.GetDeploymentRequest(model="probe")
    assert await registry.stub.GetDeployment(request, timeout=TIMEOUT_S) == answer


async def test_that_versions_may_be_paged_reaches_the_mesh(
    registry: RegistryRig, catalog: Catalog
) -> None:
    await registry.create("probe", {"weights": b"1"})
    answer = await registry.deploy("probe", {"1": 100}, may_page=True)
    found = await published(catalog, "probe")
    assert found is not None
    assert answer.may_page
    assert found.may_page
    answer = await registry.deploy("probe", {"1": 100})
    found = await published(catalog, "probe")
    assert found is not None
    assert (answer.revision, answer.may_page, found.may_page) == (2, False, False)


async def test_what_is_asked_already_keeps_its_revision(registry: RegistryRig) -> None:
    await three_versions(registry)
    first = await registry.deploy("probe", {"1": 100})
    assert first.replicas == 2
    assert await registry.deploy("probe", {"1": 100}, replicas=2) == first


async def test_a_moved_alias_moves_the_traffic_that_follows_it(
    registry: RegistryRig, catalog: Catalog
) -> None:
    await three_versions(registry)
    await registry.alias("probe", "champion", 1)
    await registry.deploy("probe", {"champion": 90, "2": 10})
    found = await published(catalog, "probe")
    assert found is not None
    assert [target.version for target in found.targets] == [1, 2]
    await registry.alias("probe", "champion", 3)
    found = await published(catalog, "probe")
    assert found is not None
    assert [(t.version, t.weight) for t in found.targets] == [(2, 10), (3, 90)]
    assert (found.aliases, set(found.versions), found.revision) == ({"champion": 3}, {2, 3}, 2)
    await registry.alias("probe", "champion", 2)
    found = await published(catalog, "probe")
    assert found is not None
    assert [(t.version, t.weight) for t in found.targets] == [(2, 100)]


async def test_an_aliased_version_is_loaded_without_being_a_target(
    registry: RegistryRig, catalog: Catalog
) -> None:
    await three_versions(registry)
    await registry.deploy("probe", {"1": 100})
    await registry.alias("probe", "next", 3)
    found = await published(catalog, "probe")
    assert found is not None
    assert (set(found.versions), found.aliases) == ({1, 3}, {"next": 3})
    request = pb.DeleteAliasRequest(model="probe", alias="next")
    model = await registry.stub.DeleteAlias(request, timeout=TIMEOUT_S)
    assert dict(model.aliases) == {}
    found = await published(catalog, "probe")
    assert found is not None
    assert set(found.versions) == {1}


async def test_an_alias_that_traffic_follows_is_not_deleted(registry: RegistryRig) -> None:
    await three_versions(registry)
    await registry.alias("probe", "champion", 1)
    await registry.deploy("probe", {"champion": 1})
    request = pb.DeleteAliasRequest(model="probe", alias="champion")
    error = await failure(registry.stub.DeleteAlias(request, timeout=TIMEOUT_S))
    assert isinstance(error, FailedPrecondition)
    assert "champion" in error.message


async def test_a_deleted_deployment_is_gone_and_its_revisions_go_on(
    registry: RegistryRig, catalog: Catalog
) -> None:
    await three_versions(registry)
    await registry.deploy("probe", {"1": 1})
    request = pb.DeleteDeploymentRequest(model="probe")
    await registry.stub.DeleteDeployment(request, timeout=TIMEOUT_S)
    assert await published(catalog, "probe") is None
    error = await failure(
        registry.stub.GetDeployment(pb.GetDeploymentRequest(model="probe"), timeout=TIMEOUT_S)
    )
    assert isinstance(error, NotFound)
    listed = await registry.stub.ListDeployments(pb.ListDeploymentsRequest(), timeout=TIMEOUT_S)
    assert list(listed.deployments) == []
    assert (await registry.deploy("probe", {"2": 1})).revision == 3


@pytest.mark.parametrize(
    ("weights", "replicas", "kind", "field"),
    [
        ({}, 0, InvalidArgument, "targets"),
        ({"1": 0}, 0, InvalidArgument, "targets.weight"),
        ({"1": 2_000_000}, 0, InvalidArgument, "targets[0].weight"),
        ({"1": 1}, 5000, InvalidArgument, "replicas"),
        ({"1": 1, "UP": 1}, 0, InvalidArgument, "targets[1].version"),
        ({"9": 1}, 0, ModelNotFound, None),
        ({"champion": 1}, 0, ModelNotFound, None),
    ],
)
async def test_a_deployment_that_cannot_be_is_refused(
    tmp_path: Path, weights: dict[str, int], replicas: int, kind: type, field: str | None
) -> None:
    async with open_registry(tmp_path, "127.0.0.1:1") as registry:
        await registry.create("probe")
        error = await failure(registry.deploy("probe", weights, replicas))
        assert isinstance(error, kind)
        assert error.field == field
        request = pb.ListDeploymentsRequest()
        listed = await registry.stub.ListDeployments(request, timeout=TIMEOUT_S)
        assert list(listed.deployments) == []


async def test_changes_at_once_end_with_consul_saying_what_sql_says(
    registry: RegistryRig, consul: ConsulRig, catalog: Catalog, tmp_path: Path
) -> None:
    """Two registries on one database, and both are asked."""
    await three_versions(registry)
    await registry.deploy("probe", {"3": 1})  # an alias set before there is one changes none
    async with open_registry(tmp_path, consul.address) as other:
        answers = await asyncio.gather(
            *((registry, other)[n % 2].deploy("probe", {"1": n + 1, "2": 1}) for n in range(16)),
            *((registry, other)[n % 2].alias("probe", f"a{n}", 1 + n % 3) for n in range(6)),
        )
    deployed = [each for each in answers if isinstance(each, pb.Deployment)]
    assert len({each.revision for each in deployed}) == 16
    assert all(each.published for each in deployed)
    request = pb.GetDeploymentRequest(model="probe")
    final = await registry.stub.GetDeployment(request, timeout=TIMEOUT_S)
    assert final.revision == 23
    found = await eventually(
        lambda: published(catalog, "probe"), lambda doc: doc is not None and doc.revision == 23
    )
    assert found is not None
    assert [t.weight for t in found.targets] == [t.weight for t in final.targets]
    assert len(found.aliases) == 6


async def test_a_crash_between_sql_and_consul_is_healed_at_the_next_start(
    consul: ConsulRig, catalog: Catalog, tmp_path: Path
) -> None:
    async with open_registry(tmp_path, consul.address) as registry:
        await three_versions(registry)
        await registry.create("gone")
        await registry.deploy("probe", {"1": 1})
        await registry.deploy("gone", {"1": 1})
    async with open_registry(tmp_path, "127.0.0.1:1") as registry:
        targets = [Target(2, 1)]
        await registry.database.write(
            lambda ledger: changes.set_deployment(ledger, "probe", targets, 2)
        )
        await registry.database.write(lambda ledger: changes.delete_deployment(ledger, "gone"))
    before = await published(catalog, "probe")
    assert before is not None
    assert before.revision == 1
    async with open_registry(tmp_path, consul.address):
        await eventually(
            lambda: published(catalog, "probe"), lambda doc: doc is not None and doc.revision == 2
        )
        await eventually(lambda: published(catalog, "gone"), lambda doc: doc is None)


async def test_without_consul_a_deployment_is_kept_and_published_when_it_is_back(
    registry: RegistryRig, consul: ConsulRig, catalog: Catalog
) -> None:
    await three_versions(registry)
    await registry.deploy("probe", {"1": 1})
    consul.kill()
    answer = await registry.deploy("probe", {"2": 1})
    assert (answer.revision, answer.published) == (2, False)
    await consul.start()
    await eventually(
        lambda: published(catalog, "probe"), lambda doc: doc is not None and doc.revision == 2
    )
    request = pb.GetDeploymentRequest(model="probe")
    found = await registry.stub.GetDeployment(request, timeout=TIMEOUT_S)
    assert found.published


async def test_what_was_changed_or_lost_in_consul_is_put_back(
    registry: RegistryRig, catalog: Catalog
) -> None:
    await three_versions(registry)
    await registry.deploy("probe", {"1": 1})
    key = DEPLOYMENTS_PREFIX + "probe"
    good = await catalog.get(key)
    assert good is not None
    await catalog.put(key, b"{}")
    await eventually(
        lambda: catalog.get(key), lambda entry: entry is not None and entry.value == good.value
    )
    await catalog.delete(key)
    await eventually(
        lambda: catalog.get(key), lambda entry: entry is not None and entry.value == good.value
    )


async def test_deployments_of_models_that_it_does_not_know_are_let_be(
    registry: RegistryRig, catalog: Catalog
) -> None:
    await catalog.put(DEPLOYMENTS_PREFIX + "foreign", b"{}")
    await registry.create("probe")
    await registry.deploy("probe", {"1": 1})
    assert await catalog.get(DEPLOYMENTS_PREFIX + "foreign") is not None
