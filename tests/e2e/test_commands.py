"""The `ringmesh` command against a running mesh, as the documents name it."""

import json
import re
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import Mesh

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = {"up", "down", "publish", "deploy", "trace"}
"""Started, stopped or called with arguments of their own by other tests."""


def documented() -> list[str]:
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    found = set(re.findall(r"`(?:\.venv/bin/)?ringmesh ([a-z][^`]*)`", text))
    return sorted(command for command in found if command.split()[0] not in ELSEWHERE)


@pytest.mark.parametrize("command", documented())
def test_a_documented_command_runs(mesh: Mesh, command: str) -> None:
    done = mesh.command(*command.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_documents_name_commands() -> None:
    assert {command.split()[0] for command in documented()} >= {"status", "logs", "doctor"}


def test_a_second_version_takes_traffic_by_alias_and_weight(
    mesh: Mesh, http: httpx.Client, tmp_path: Path
) -> None:
    """Publish, alias, deploy with weights and go back, while calls go on."""
    body = {"inputs": [{"name": "x", "datatype": "INT32", "shape": [1], "data": [1]}]}
    manifest = {"name": "echo", "task": "tensor", "format": "identity"}
    versions = []
    for note in ("first", "second"):
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        (tmp_path / "note.txt").write_text(note)
        done = mesh.command("publish", str(tmp_path), "--json")
        assert done.returncode == 0, done.stderr
        versions.append(str(json.loads(done.stdout)["version"]))
    assert versions[0] != versions[1]
    run(mesh, "deploy", "echo", versions[0])
    wait_for_version(http, "echo", body, {versions[0]})
    run(mesh, "alias", "echo", "canary", versions[1])
    wait_for_version(http, "echo@canary", body, {versions[1]})
    run(mesh, "deploy", "echo", f"{versions[0]}:50", f"{versions[1]}:50")
    wait_for_version(http, "echo", body, set(versions))
    run(mesh, "deploy", "echo", versions[0])
    wait_for_version(http, "echo", body, {versions[0]})


def run(mesh: Mesh, *arguments: str) -> None:
    done = mesh.command(*arguments)
    assert done.returncode == 0, done.stderr


def wait_for_version(http: httpx.Client, model: str, body: dict, versions: set[str]) -> None:
    """Until 40 calls in a row are answered by exactly these versions."""
    for _ in range(60):
        replies = [http.post(f"/v2/models/{model}/infer", json=body) for _ in range(40)]
        if {reply.headers.get("x-ringmesh-version") for reply in replies} == versions:
            return
    pytest.fail(f"{model} is not served by {versions}: {replies[-1].text}")


def test_a_setting_changes_live_and_goes_back(mesh: Mesh) -> None:
    key = "routing.hash_balance_factor"
    run(mesh, "config", "set", key, "150")
    assert "150" in mesh.command("config", "get", key).stdout
    refused = mesh.command("config", "set", key, "5")
    assert refused.returncode != 0
    assert "100" in refused.stderr
    assert "Traceback" not in refused.stderr
    run(mesh, "config", "rollback", key, "0")
    assert "200" in mesh.command("config", "get", key).stdout
