"""Who runs in a state folder, and where: the lock of a running mesh and the record it writes.

The supervisor holds a lock on `mesh.pid` for as long as it lives, so a pid in there is that of a
live mesh exactly when the lock is taken; a file left by a killed one is no obstacle. `mesh.json`
appears when the mesh answers requests, and is gone when it is stopped; until then what is known is
in `mesh.starting.json`, for those who ask why it takes so long.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from mesh.local.problem import LocalProblem


class StateDirUnusable(LocalProblem):
    """The state folder cannot be made, or not be written to."""


class MeshRunning(LocalProblem):
    """Another mesh runs in this state folder."""


class MeshNotRunning(LocalProblem):
    """No mesh runs in this state folder."""


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A running process of the mesh."""

    pid: int
    log: str


@dataclass(frozen=True, slots=True)
class MeshRecord:
    """A running mesh; addresses are `host:port`."""

    pid: int
    """The supervisor's."""
    state_dir: str
    edge: str
    consul: str
    envoy_admin: str
    mesh: str
    controlplane: str
    otlp_endpoint: str
    traces_dir: str | None
    """Where the trace sink writes; None when traces go to a collector."""
    ready_after_s: float | None
    """None while it starts."""
    processes: Mapping[str, ProcessRecord]

    @classmethod
    def from_json(cls, text: str) -> "MeshRecord":
        """Reads what `write_record` wrote."""
        fields: dict[str, Any] = json.loads(text)
        processes = {name: ProcessRecord(**each) for name, each in fields["processes"].items()}
        return cls(**{**fields, "processes": processes})


@contextmanager
def owned_state_dir(state_dir: Path) -> Iterator[None]:
    """Claims the folder for this process until the block is left.

    Raises:
        StateDirUnusable: nothing can be written there.
        MeshRunning: another process has it.
    """
    with _open_pid_file(state_dir) as file:
        if not _try_lock(file):
            raise MeshRunning(
                f"A mesh is already running in {state_dir} (pid {_read_pid(file)}): stop it with "
                f"`ringmesh down`, or set RINGMESH_STATE_DIR to another folder."
            )
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        remove_record(state_dir)
        try:
            yield
        finally:
            remove_record(state_dir)
            file.truncate(0)


def find_supervisor(state_dir: Path) -> int | None:
    """The process id of the mesh that runs in the folder, or None."""
    try:
        with _pid_file(state_dir).open("r+") as file:
            return None if _try_lock(file) else _read_pid(file)
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_record(state_dir: Path, record: MeshRecord) -> None:
    """Replaces the record at once: a reader sees the old one or the new one."""
    staged = state_dir / "mesh.json.new"
    staged.write_text(json.dumps(asdict(record), indent=2) + "\n")
    is_starting = record.ready_after_s is None
    staged.replace(_starting_file(state_dir) if is_starting else _record_file(state_dir))
    if not is_starting:
        _starting_file(state_dir).unlink(missing_ok=True)


def read_record(state_dir: Path, *, even_starting: bool = False) -> MeshRecord:
    """The record of the mesh that is ready in the folder, or on request of one that starts.

    Raises:
        MeshNotRunning: there is none, or it is still starting.
    """
    pid = find_supervisor(state_dir)
    if pid is None:
        raise MeshNotRunning(f"No mesh is running in {state_dir}: start one with `ringmesh up`.")
    files = [_record_file(state_dir)] + [_starting_file(state_dir)] * even_starting
    for file in files:
        with suppress(FileNotFoundError):
            return MeshRecord.from_json(file.read_text())
    raise MeshNotRunning(
        f"The mesh in {state_dir} (pid {pid}) is starting or stopping: try again in a moment."
    )


def remove_record(state_dir: Path) -> None:
    """Says that the mesh is not ready (any more)."""
    for file in (_record_file(state_dir), _starting_file(state_dir)):
        file.unlink(missing_ok=True)


def _open_pid_file(state_dir: Path) -> IO[str]:
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        return _pid_file(state_dir).open("a+")
    except OSError as error:
        raise StateDirUnusable(
            f"The state folder {state_dir} cannot be used ({error.strerror}): set "
            f"RINGMESH_STATE_DIR to a folder that you may write to."
        ) from error


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(file: IO[str]) -> int:
    file.seek(0)
    return int(file.read().strip() or 0)


def _pid_file(state_dir: Path) -> Path:
    return state_dir / "mesh.pid"


def _record_file(state_dir: Path) -> Path:
    return state_dir / "mesh.json"


def _starting_file(state_dir: Path) -> Path:
    return state_dir / "mesh.starting.json"
