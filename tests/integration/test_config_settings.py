"""Settings over the wire: changed, refused, rolled back, and visible where the mesh reads them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack

import grpc
import pytest

from mesh.catalog import Catalog
from mesh.controlplane.tuning import Tuning, read_tuning
from mesh.errors import (
    Conflict,
    InvalidArgument,
    NotFound,
    RingmeshError,
    Unavailable,
    error_from_rpc,
)
from mesh.live_setting import SETTINGS_PREFIX
from mesh.pb import config_pb2 as pb
from mesh.pb import config_pb2_grpc
from services.config.definition import make_definitions
from services.config.revision import values_key
from tests.integration.config_rig import FACTOR, TIMEOUT_S, ConfigRig, open_config
from tests.integration.consul_rig import ConsulRig


@pytest.fixture
async def config(consul: ConsulRig) -> AsyncIterator[ConfigRig]:
    async with open_config(consul.address) as rig:
        yield rig


async def failure(call: Awaitable[object]) -> RingmeshError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return error_from_rpc(raised.value)


async def tuning(catalog: Catalog) -> Tuning:
    """What the control plane makes of what lies in Consul now."""
    entries = await catalog.list_prefix(SETTINGS_PREFIX)
    values = {key.removeprefix(SETTINGS_PREFIX): each.value for key, each in entries.items()}
    problems: list[str] = []
    read = read_tuning(values, lambda key, why: problems.append(f"{key}: {why}"))
    assert problems == []
    return read


async def test_every_setting_has_a_default_and_says_what_it_takes(config: ConfigRig) -> None:
    answer = await config.stub.ListSettings(pb.ListSettingsRequest(), timeout=TIMEOUT_S)
    settings = {each.key: each for each in answer.settings}
    assert json.loads(settings[FACTOR].schema_json) == {
        "type": "integer",
        "minimum": 100,
        "maximum": 1000,
    }
    for setting in settings.values():
        assert setting.value_json == setting.default_json
        assert setting.description
        assert (setting.revision, setting.changed_unix_ms, setting.actor) == (0, 0, "")


async def test_a_change_is_what_the_control_plane_reads(
    config: ConfigRig, catalog: Catalog
) -> None:
    assert await tuning(catalog) == Tuning()
    changed = await config.set(300, reason="busy")
    assert (changed.value_json, changed.revision, changed.actor) == ("300", 1, "ada")
    assert changed.changed_unix_ms > 0
    assert await config.get() == changed
    await config.set("ring_hash", key="routing.policy")
    await config.set(0.25, key="tracing.sample_ratio")
    await config.set(5, key="placement.grace_s")
    assert await tuning(catalog) == Tuning("ring_hash", 300, 0.25, 5.0)


async def test_what_is_refused_changes_nothing(config: ConfigRig, catalog: Catalog) -> None:
    error = await failure(config.set(5000))
    assert isinstance(error, InvalidArgument)
    assert error.field == "value_json"
    assert "an integer from 100 to 1000" in error.message
    assert isinstance(await failure(config.set(300, key="routing.hash_balance")), NotFound)
    assert await catalog.list_prefix("ringmesh/config/") == {}


async def test_a_rollback_is_a_revision_of_its_own(config: ConfigRig) -> None:
    await config.set(300, reason="more")
    await config.set(400)
    assert (await config.rollback(1)).value_json == "300"
    back = await config.rollback(0)
    assert (back.value_json, back.revision) == ("200", 4)
    assert await config.history() == [
        (4, 200, "bob", "oops"),
        (3, 300, "bob", "oops"),
        (2, 400, "ada", ""),
        (1, 300, "ada", "more"),
    ]
    assert isinstance(await failure(config.rollback(9)), NotFound)


async def test_the_value_that_is_there_already_makes_no_revision(config: ConfigRig) -> None:
    first = await config.set(300)
    assert await config.set(300) == first
    assert len(await config.history()) == 1


async def test_somebody_else_was_faster(config: ConfigRig) -> None:
    await config.set(300, expected=0)
    assert isinstance(await failure(config.set(400, expected=0)), Conflict)
    assert (await config.set(400, expected=1)).revision == 2


async def test_of_many_at_once_who_expect_the_same_revision_one_wins(config: ConfigRig) -> None:
    calls = [config.set(300 + n, expected=0) for n in range(8)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    (won,) = [each for each in answers if not isinstance(each, BaseException)]
    assert await config.get() == won
    assert len(await config.history()) == 1


async def test_many_at_once_each_get_a_revision(consul: ConsulRig, config: ConfigRig) -> None:
    async with open_config(consul.address) as other:
        calls = [(config, other)[n % 2].set(300 + n) for n in range(20)]
        answers = await asyncio.gather(*calls)
        assert sorted(each.revision for each in answers) == list(range(1, 21))
        history = {revision: value for revision, value, _, _ in await other.history()}
    assert history == {each.revision: json.loads(each.value_json) for each in answers}
    assert (await config.get()).revision == 20


async def test_a_value_that_was_lost_does_not_bring_old_numbers_back(
    config: ConfigRig, catalog: Catalog
) -> None:
    await config.set(300)
    await config.set(400)
    await catalog.delete(values_key(FACTOR))
    assert (await config.get()).value_json == "200"
    assert (await config.set(500)).revision == 3
    await catalog.put(values_key(FACTOR), b"damaged")
    assert (await config.set(600)).revision == 4


@pytest.mark.parametrize("implementation", ["native", "grpcio"])
async def test_a_watch_tells_all_and_then_what_changes(consul: ConsulRig, implementation) -> None:
    async with open_config(consul.address, implementation=implementation) as config:
        await config.set(300)
        first, second = config.watch(), config.watch()
        for watch in (first, second):
            snapshot = await anext(watch)
            assert len(snapshot) == len(make_definitions())
            while snapshot.get(FACTOR) != 300:  # the board may hear of it a moment later
                snapshot = await anext(watch)
        await config.set("ring_hash", key="routing.policy")
        for watch in (first, second):
            assert await anext(watch) == {"routing.policy": "ring_hash"}


async def test_a_watch_ends_with_a_reason_when_the_service_stops(consul: ConsulRig) -> None:
    async with asyncio.timeout(20), AsyncExitStack() as service:
        config = await service.enter_async_context(open_config(consul.address))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{config.port}") as channel:
            watch = config_pb2_grpc.ConfigStub(channel).WatchSettings(pb.WatchSettingsRequest())
            await watch.read()
            ended = asyncio.create_task(failure(watch.read()))
            await service.aclose()
            assert isinstance(await ended, Unavailable)


async def test_consul_may_go_away_and_come_back(consul: ConsulRig, config: ConfigRig) -> None:
    async with asyncio.timeout(60):
        await config.set(300)
        watch = config.watch()
        while (await anext(watch)).get(FACTOR) != 300:
            pass
        consul.kill()
        assert isinstance(await failure(config.get()), Unavailable)
        assert isinstance(await failure(config.set(400)), Unavailable)
        late = config.watch()
        assert (await anext(late))[FACTOR] == 300
        await consul.start()
        assert (await config.set(400)).revision == 2
        assert await anext(watch) == await anext(late) == {FACTOR: 400}
