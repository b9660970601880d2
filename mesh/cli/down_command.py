"""`ringmesh down`: stops the mesh of a state folder, wherever it was started."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.output import JsonFlag, make_console, print_json
from mesh.cli.place import StateDir
from mesh.local.problem import LocalProblem
from mesh.local.run_state import find_supervisor

app = typer.Typer()
_POLL_S = 0.05


@app.command()
def down(
    state_dir: StateDir = Path(".ringmesh"),
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 60.0,
    as_json: JsonFlag = False,
) -> None:
    """Stop the mesh that runs on this machine."""
    pid = find_supervisor(state_dir)
    if pid:
        os.kill(pid, signal.SIGTERM)  # the lock proves that the pid is that of a mesh
        _await_end(state_dir, pid, timeout_s)
    if as_json:
        print_json({"stopped": pid})
    else:
        make_console().print(f"Stopped (pid {pid})." if pid else f"No mesh runs in {state_dir}.")


def _await_end(state_dir: Path, pid: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while find_supervisor(state_dir) == pid:
        if time.monotonic() > deadline:
            raise LocalProblem(
                f"The mesh (pid {pid}) is still stopping after {timeout_s:.0f} s: wait for it, or "
                f"end it at once with `kill -9 {pid}`, which ends its processes too."
            )
        time.sleep(_POLL_S)
