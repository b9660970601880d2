"""The commands that ask registry and config, against those services behind a real Envoy."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mesh.catalog import Catalog
from mesh.local.address import choose_addresses
from mesh.local.plan import Plan, plan_children
from mesh.local.settings import LocalSettings
from mesh.local.supervisor import supervise
from mesh.local.toolchain import Tools, find_consul, find_envoy

pytestmark = pytest.mark.asyncio(loop_scope="module")

WANTED = ("consul", "tracesink", "registry", "config", "controlplane", "envoy")
Run = Callable[..., Awaitable[Any]]
NO_WAIT = ("--wait", "0")
"""There is no node that could get ready."""
DEPLOY = ("--deploy", *NO_WAIT)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ringmesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Run]:
    """Runs a command with --json against a mesh without nodes; returns what it printed."""
    state_dir = tmp_path_factory.mktemp("state")
    settings = LocalSettings(
        state_dir=state_dir,
        edge_port=0,
        consul_port=0,
        envoy_admin_port=0,
        consul_address=None,
        otlp_endpoint=None,
    )
    tools = Tools(find_consul(), find_envoy())
    plan = Plan(settings, tools, choose_addresses(settings), state_dir)

    async def run(*arguments: str, status: int = 0) -> Any:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mesh.cli.main", *arguments, "--json"),
            env={**os.environ, "RINGMESH_EDGE": plan.addresses.edge},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, complaint = await process.communicate()
        assert process.returncode == status, complaint.decode()
        return json.loads(printed or complaint)

    async with Catalog.open(plan.addresses.consul) as catalog:
        children = [each for each in plan_children(plan, catalog) if each.name in WANTED]
        async with supervise(children, state_dir / "logs", lambda _: None) as supervision:
            await supervision.wait_ready(timeout_s=60)
            yield run


async def test_a_model_is_published_deployed_and_named(ringmesh: Run, tmp_path: Path) -> None:
    artefact = tmp_path / "echo"
    artefact.mkdir()
    manifest = artefact / "manifest.json"
    manifest.write_text('{"name": "echo", "task": "tensor", "format": "identity"}')

    version = await ringmesh("publish", str(artefact), "--description", "the first")
    assert (version["model"], version["version"], version["files"]) == ("echo", 1, [])
    assert version["is_new"]
    again = await ringmesh("publish", str(artefact), *DEPLOY, "--replicas", "1")
    assert (again["version"], again["is_new"]) == (1, False)

    await ringmesh("alias", "echo", "champion", "1")
    deployed = await ringmesh("deploy", "echo", "champion:30", "--replicas", "3", *NO_WAIT)
    assert deployed["replicas"] == 3
    shown = await ringmesh("show", "echo")
    assert shown["aliases"] == {"champion": 1}
    assert shown["deployment"]["targets"] == deployed["targets"]
    assert [each["description"] for each in shown["versions"]] == ["the first"]
    listed = {each["name"]: each["versions"] for each in await ringmesh("models")}
    assert listed["echo"] == [1]

    await ringmesh("deploy", "echo", "--remove")
    assert (await ringmesh("show", "echo"))["deployment"] is None
    refused = await ringmesh("show", "nothing", status=1)
    assert "nothing" in refused["error"]["message"]


async def test_a_file_is_stored_once_with_its_digest(ringmesh: Run, tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(b"GGUF" * 700_000)
    first = await ringmesh("publish", str(model), "--name", "tiny")
    (file,) = first["files"]
    assert (file["path"], file["size_bytes"]) == ("tiny.gguf", 2_800_000)
    second = await ringmesh("publish", str(model), "--name", "other")
    assert second["files"] == first["files"]


async def test_a_setting_is_changed_and_taken_back(ringmesh: Run) -> None:
    key = "routing.hash_balance_factor"
    default = (await ringmesh("config", "get", key))["value"]
    changed = await ringmesh("config", "set", key, "150", "--reason", "hot keys")
    assert (changed["value"], changed["revision"]) == (150, 1)
    refused = await ringmesh("config", "set", key, "3", status=1)
    assert key in refused["error"]["message"]
    await ringmesh("config", "rollback", key, "0")
    history = await ringmesh("config", "history", key)
    assert [(each["value"], each["reason"]) for each in history] == [
        (default, ""),
        (150, "hot keys"),
    ]
    listed = {each["key"]: each["value"] for each in await ringmesh("config", "list")}
    assert listed[key] == default
