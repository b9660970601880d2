"""Building an engine in a process of its own, at low priority.

A build takes a core for minutes and much memory, and a library of this size may crash; none of it
may touch the node that is serving meanwhile. The job goes in as JSON on standard input, the plan
comes out as a file, and what went wrong as a line of JSON on standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.inference.backends.backend import BackendUnavailable, Obstacle
from services.inference.backends.tensorrt.build import build_plan
from services.inference.backends.tensorrt.gpu import Architecture
from services.inference.backends.tensorrt.library import BACKEND, load_library
from services.inference.backends.tensorrt.shapes import Profile, ShapeRange

_NICENESS = 10
_KEPT_OUTPUT = 400


@dataclass(frozen=True, slots=True)
class BuildJob:
    """What to build, and where to put the plan."""

    graph: Path
    profiles: tuple[Profile, ...]
    targets: tuple[Architecture, ...]
    plan: Path

    def to_json(self) -> str:
        """As it travels."""
        return json.dumps(
            {
                "graph": str(self.graph),
                "profiles": [[each.to_json() for each in profile] for profile in self.profiles],
                "targets": [target.code for target in self.targets],
                "plan": str(self.plan),
            }
        )


class BuildProcess:
    """One build, which can be ended while it waits for its turn and while it runs."""

    def __init__(self, turn: threading.Lock) -> None:
        self._turn = turn
        self._changing = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._is_closed = False

    def run(self, job: BuildJob) -> None:
        """Builds; blocking. Raises `BackendUnavailable` with the reason of a failure."""
        with self._turn:
            process = self._start()
            try:
                output, errors = process.communicate(job.to_json())
            finally:
                process.kill()  # where somebody has interrupted us
            check_outcome(process.returncode, output, errors)

    def close(self) -> None:
        """Ends the build; it will not be started after that."""
        with self._changing:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()

    def _start(self) -> subprocess.Popen[str]:
        with self._changing:
            if self._is_closed:
                raise _failed("the build was given up")
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            return self._process


def check_outcome(code: int, output: str, errors: str) -> None:
    """Turns the end of a build into its reason; nothing if it went well."""
    if code == 0:
        return
    try:
        told = json.loads(output.splitlines()[-1])
        obstacle, detail = Obstacle(told["obstacle"]), str(told["detail"])
    except (ValueError, KeyError, IndexError, TypeError):
        how = f"signal {-code}" if code < 0 else f"status {code}"
        said = errors.strip()[-_KEPT_OUTPUT:]
        raise _failed(f"the build ended with {how}: {said or 'it said nothing'}") from None
    raise BackendUnavailable(BACKEND, obstacle, detail)


def _failed(detail: str) -> BackendUnavailable:
    return BackendUnavailable(BACKEND, Obstacle.BUILD_FAILED, detail)


def read_job(fields: dict[str, Any]) -> BuildJob:
    """What `to_json` wrote."""
    return BuildJob(
        graph=Path(fields["graph"]),
        profiles=tuple(tuple(map(_read_range, profile)) for profile in fields["profiles"]),
        targets=tuple(Architecture.parse(code) for code in fields["targets"]),
        plan=Path(fields["plan"]),
    )


def _read_range(fields: Sequence[Any]) -> ShapeRange:
    name, least, usual, most = fields
    return ShapeRange(name, tuple(least), tuple(usual), tuple(most))


def main() -> None:
    """The process itself."""
    os.nice(_NICENESS)
    job = read_job(json.load(sys.stdin))
    try:
        job.plan.write_bytes(build_plan(load_library(), job.graph, job.profiles, job.targets))
    except BackendUnavailable as refusal:
        told = {"obstacle": refusal.obstacle.value, "detail": refusal.detail}
        print(json.dumps(told))  # noqa: T201 - the answer
        sys.exit(1)


if __name__ == "__main__":
    main()
