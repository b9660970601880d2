import os
from pathlib import Path

import pytest

from mesh.local.run_state import (
    MeshNotRunning,
    MeshRecord,
    MeshRunning,
    ProcessRecord,
    StateDirUnusable,
    find_supervisor,
    owned_state_dir,
    read_record,
    write_record,
)

RECORD = MeshRecord(
    pid=1,
    state_dir="/state",
    edge="127.0.0.1:8080",
    consul="127.0.0.1:8500",
    envoy_admin="127.0.0.1:9901",
    mesh="127.0.0.1:1",
    controlplane="127.0.0.1:2",
    otlp_endpoint="http://127.0.0.1:3",
    traces_dir=None,
    ready_after_s=1.5,
    processes={"gateway": ProcessRecord(7, "/state/logs/gateway.log")},
)


def test_a_folder_has_one_mesh_at_a_time(tmp_path: Path) -> None:
    with (
        owned_state_dir(tmp_path),
        pytest.raises(MeshRunning, match=rf"pid {os.getpid()}\).*ringmesh down"),
        owned_state_dir(tmp_path),
    ):
        pass
    with owned_state_dir(tmp_path):
        assert find_supervisor(tmp_path) == os.getpid()
    assert find_supervisor(tmp_path) is None


def test_a_pid_file_without_a_lock_is_of_no_consequence(tmp_path: Path) -> None:
    (tmp_path / "mesh.pid").write_text("1\n")
    assert find_supervisor(tmp_path) is None
    with owned_state_dir(tmp_path):
        assert (tmp_path / "mesh.pid").read_text() == f"{os.getpid()}\n"


def test_the_record_reads_back_while_the_mesh_runs(tmp_path: Path) -> None:
    with owned_state_dir(tmp_path):
        with pytest.raises(MeshNotRunning, match="is starting or stopping"):
            read_record(tmp_path)
        write_record(tmp_path, RECORD)
        assert read_record(tmp_path) == RECORD
    assert not (tmp_path / "mesh.json").exists()


def test_a_record_that_a_killed_mesh_left_is_not_believed(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    with pytest.raises(MeshNotRunning, match="start one with `ringmesh up`"):
        read_record(tmp_path)


def test_a_folder_that_cannot_be_one_is_named_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for unusable in (file, file / "below"):
        with (
            pytest.raises(StateDirUnusable, match=rf"^The state folder {unusable} .*STATE_DIR"),
            owned_state_dir(unusable),
        ):
            pass
        assert find_supervisor(unusable) is None
