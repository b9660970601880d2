"""Runs a program of this machine to its end and keeps its words for the case that it fails.

It is leashed: should this process be ended meanwhile, the program ends too.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mesh.local.child import leashed


class CommandFailed(Exception):
    """The program ended with an error; the message is the line in which it said why."""


def run_command(argv: Sequence[str], *, cwd: Path | None = None) -> str:
    """Returns what the program printed."""
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(  # noqa: S603 - no shell, and every argument is ours
        leashed(argv), cwd=cwd, env=env, check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise CommandFailed(_pick_reason(done.stderr) or f"{argv[0]}: status {done.returncode}")
    return done.stdout


def _pick_reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    marked = [line for line in lines if line.startswith(("E:", "ERROR:", "error:"))]
    reason = (marked or lines or [""])[0 if marked else -1]
    return reason.removeprefix("E:").removeprefix("ERROR:").strip().rstrip(".")
