"""How commands speak: tables for people, one JSON document for programs, failures on stderr."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 160

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def print_line(value: Any) -> None:
    """One JSON document on a line of its own, at once: for commands that go on."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def print_failure(message: str, reason: str, *, as_json: bool) -> None:
    """What went wrong and what to do, on stderr."""
    if as_json:
        sys.stderr.write(json.dumps({"error": {"reason": reason, "message": message}}) + "\n")
        return
    console = Console(stderr=True)
    console.print("[bold red]Error:[/]", end=" ")
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def make_console() -> Console:
    """Where tables and text go; a file or a pipe is taken to be wide."""
    is_narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if is_narrow else PIPE_WIDTH)


def make_table(*columns: str, title: str | None = None) -> Table:
    """A table in the house style: no box, a header, space between columns."""
    table = Table(*columns, title=title, box=None, pad_edge=False, title_justify="left")
    table.header_style = "bold"
    return table


def is_interactive() -> bool:
    """Whether a person sits at the terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()
