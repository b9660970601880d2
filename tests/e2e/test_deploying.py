"""Deploying as a user does: the command ends when the version answers, or says why it cannot."""

import json
from pathlib import Path

import httpx

from tests.e2e.harness import Mesh

REASON = "UNAVAILABLE"


def test_a_version_answers_when_the_command_ends(
    mesh: Mesh, http: httpx.Client, tmp_path: Path
) -> None:
    manifest = {"name": "prompt", "task": "tensor", "format": "identity"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    done = mesh.command("publish", str(tmp_path), "--deploy")
    assert done.returncode == 0, done.stderr
    assert "prompt@1 is ready on node-1, node-2." in done.stdout
    body = {"inputs": [{"name": "x", "datatype": "INT32", "shape": [1], "data": [1]}]}
    assert http.post("/v2/models/prompt@1/infer", json=body).status_code == 200
    again = mesh.command("publish", str(tmp_path))
    assert "Nothing new: the same files and manifest are prompt version 1" in again.stdout


def test_a_version_that_does_not_load_is_a_failure_with_its_reason_everywhere(
    mesh: Mesh, tmp_path: Path
) -> None:
    model = tmp_path / "broken.gguf"
    model.write_bytes(b"GGUF" + bytes(4096))
    published = mesh.command("publish", str(model), "--deploy")
    assert published.returncode == 1
    assert "broken@1 does not load. node-1, node-2: " in published.stderr
    reason = published.stderr.split("node-1, node-2: ")[1].split()[0]
    deployed = mesh.command("deploy", "broken", "1", "--json")
    assert deployed.returncode == 1
    assert reason in json.loads(deployed.stderr)["error"]["message"]
    for command in (("status",), ("show", "broken"), ("deploy", "broken")):
        shown = mesh.command(*command)
        assert shown.returncode == 0
        assert REASON in shown.stdout, command
        assert reason in shown.stdout, command
    (state,) = json.loads(mesh.command("show", "broken", "--json").stdout)["states"]
    assert {each["state"] for each in state["nodes"]} == {REASON}
    assert mesh.command("deploy", "broken", "--remove").returncode == 0


def test_what_cannot_be_a_model_is_not_published(mesh: Mesh, tmp_path: Path) -> None:
    model = tmp_path / "empty.onnx"
    model.touch()
    refused = mesh.command("publish", str(model))
    assert refused.returncode == 1
    assert "empty.onnx is empty." in refused.stderr
    assert mesh.command("show", "empty").returncode == 1
