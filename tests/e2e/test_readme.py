"""The curl lines of the README, the docs and `ringmesh up`, run exactly as they are printed.

They name port 8080; curl's own configuration sends that to the suite's mesh.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.harness import Mesh

ROOT = Path(__file__).parents[2]


def curl_lines(name: str) -> list[str]:
    text = (ROOT / name).read_text()
    return re.findall(r"^curl .*$", text, re.MULTILINE)


def run(mesh: Mesh, line: str, tmp_path: Path) -> str:
    (tmp_path / ".curlrc").write_text(f'connect-to = "localhost:8080:{mesh.edge}"\n')
    env = mesh.env | {"CURL_HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", line], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


@pytest.mark.parametrize("line", curl_lines("README.md"), ids=lambda line: line[:60])
def test_a_printed_line_answers(mesh: Mesh, tmp_path: Path, line: str) -> None:
    head, _, body = run(mesh, line, tmp_path).rpartition("\n")
    answer = json.loads(body)
    assert "error" not in answer
    if "chat" in line:
        assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    if " -si " in line:
        assert "x-ringmesh-node: node-" in head
        assert "x-ringmesh-trace-id: " in head


DOCUMENTED = curl_lines("docs/api.md")


@pytest.mark.parametrize("line", DOCUMENTED, ids=lambda line: line[:60])
def test_a_documented_line_answers(mesh: Mesh, tmp_path: Path, line: str) -> None:
    assert "error" not in json.loads(run(mesh, line, tmp_path))


def test_the_readme_has_the_lines() -> None:
    assert len(curl_lines("README.md")) == 3


def test_the_commands_that_up_prints_work_as_printed(mesh: Mesh) -> None:
    lines = [
        line.strip()
        for line in mesh.log.read_text().splitlines()
        if line.startswith("  curl ") or " trace " in line
    ]
    assert len(lines) == 3
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_every_file_of_the_tree_exists() -> None:
    tree = (ROOT / "README.md").read_text().split("## What is where")[1].split("```")[1]
    kernel = re.findall(r"\b([a-z]+\.py)\b", tree)
    assert kernel
    for name in kernel:
        assert (ROOT / "mesh" / name).exists(), name
    for folder in re.findall(r"^([a-z]+)/", tree, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder
