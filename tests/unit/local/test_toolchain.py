from pathlib import Path

import pytest

from mesh.local.command import CommandFailed, run_command
from mesh.local.problem import ToolMissing
from mesh.local.toolchain import find_consul, find_envoy, has_consul


def make_executable(path: Path) -> Path:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_consul_bin_wins_over_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = make_executable(tmp_path / "my-consul")
    make_executable(tmp_path / "consul")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CONSUL_BIN", str(chosen))
    assert find_consul(tmp_path / "cache") == chosen


def test_consul_on_the_path_wins_over_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONSUL_BIN", raising=False)
    (tmp_path / "cache/consul").mkdir(parents=True)
    installed = make_executable(tmp_path / "consul")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_consul(tmp_path / "cache") == installed


def test_cached_consul_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONSUL_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not has_consul(tmp_path)
    (tmp_path / "consul").mkdir()
    assert has_consul(tmp_path)
    assert find_consul(tmp_path) == tmp_path / "consul/usr/bin/consul"


def test_a_variable_that_names_no_program_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVOY_BIN", str(tmp_path / "nothing"))
    with pytest.raises(ToolMissing, match=r"ENVOY_BIN is .*nothing, no executable file"):
        find_envoy()


def test_without_apt_the_advice_is_to_install_consul(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONSUL_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="put it on the PATH, or set CONSUL_BIN"):
        find_consul(tmp_path / "cache")


def test_envoy_comes_with_its_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENVOY_BIN", raising=False)
    assert find_envoy().is_file()


def test_a_failed_command_keeps_the_line_that_says_why() -> None:
    script = "echo E: no such release. >&2; echo more >&2; exit 3"
    with pytest.raises(CommandFailed, match=r"^no such release$"):
        run_command(["sh", "-c", script])
    with pytest.raises(CommandFailed, match="status 4"):
        run_command(["sh", "-c", "exit 4"])
    with pytest.raises(CommandFailed, match="No such file"):
        run_command(["/nowhere/program"])
