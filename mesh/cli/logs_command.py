"""`ringmesh logs`: what the processes of the mesh wrote."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated

import typer
from rich.text import Text

from mesh.cli.log_line import render_line
from mesh.cli.output import JsonFlag, make_console, print_line
from mesh.cli.place import StateDir
from mesh.local.child import read_tail
from mesh.local.problem import LocalProblem

app = typer.Typer()
_POLL_S = 0.1
_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red", "bright_cyan", "white")


@app.command()
def logs(
    names: Annotated[
        list[str] | None, typer.Argument(help="Processes, as `ringmesh status` names them.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("-n", min=0, help="Lines of each to begin with.")] = 20,
    state_dir: StateDir = Path(".ringmesh"),
    as_json: JsonFlag = False,
) -> None:
    """Show the logs of the mesh's processes."""
    paths = _choose(state_dir / "logs", names or [])
    console = make_console()

    def show(path: Path, line: str) -> None:
        if as_json:
            print_line({"process": path.stem, "line": line})
            return
        colour = _COLOURS[paths.index(path) % len(_COLOURS)]
        console.print(Text(f"{path.stem:<14}", colour), render_line(line), soft_wrap=True)

    for path in paths:
        for line in read_tail(path, lines):
            show(path, line)
    if follow:
        for path, line in _follow(paths):
            show(path, line)


def _choose(folder: Path, names: Sequence[str]) -> list[Path]:
    found = {path.stem: path for path in sorted(folder.glob("*.log"))}
    unknown = [name for name in names if name not in found]
    if unknown or not found:
        known = ", ".join(found) or "none yet"
        what = f"No log of {', '.join(unknown)}" if unknown else "No logs"
        raise LocalProblem(f"{what} in {folder}; known are: {known}.")
    return [found[name] for name in names or found]


def _follow(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    files = {path: path.open(errors="replace") for path in paths}
    for file in files.values():
        file.seek(0, 2)
    while True:
        fresh = [(path, line) for path, file in files.items() for line in _new_lines(path, file)]
        yield from fresh
        if not fresh:
            time.sleep(_POLL_S)


def _new_lines(path: Path, file: IO[str]) -> Iterator[str]:
    if path.stat().st_size < file.tell():  # it was set aside
        file.seek(0)
    while True:
        before = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(before)
            return
        yield line.rstrip("\n")
