"""`ringmesh doctor`: can this machine run a mesh, and if not, what is to be done?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer
from rich.markup import escape

from mesh.cli.output import JsonFlag, make_console, make_table, print_json
from mesh.cli.place import StateDir
from mesh.local.checkup import Finding, examine

app = typer.Typer()
_MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "problem": "[red]✗[/]"}


@app.command()
def doctor(state_dir: StateDir = Path(".ringmesh"), as_json: JsonFlag = False) -> None:
    """Check whether this machine can run a mesh."""
    findings = examine(state_dir)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _render(findings)
    if any(finding.verdict == "problem" for finding in findings):
        raise typer.Exit(1)


def _render(findings: list[Finding]) -> None:
    table = make_table("", "what", "found", "what to do")
    for finding in findings:
        mark = _MARKS[finding.verdict]
        table.add_row(mark, finding.what, escape(finding.found), escape(finding.advice))
    make_console().print(table)
