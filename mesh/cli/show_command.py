"""`ringmesh show`: one model, whole."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from mesh.cli.call import CallFailed
from mesh.cli.output import JsonFlag, make_console, make_table, print_json
from mesh.cli.place import Edge, StateDir, find_edge
from mesh.cli.registry_call import ask_registry, render_targets, show_model
from mesh.cli.version_state import VersionState, make_state_table, read_states

app = typer.Typer()


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    edge: Edge = None,
    state_dir: StateDir = Path(".ringmesh"),
    as_json: JsonFlag = False,
) -> None:
    """Show a model: its versions, aliases, deployment, files, and how each node does with it."""
    address = find_edge(edge, state_dir)
    model = ask_registry(address, lambda registry: show_model(registry, name))
    states, problem = _try_states(address, name)
    if as_json:
        print_json(model | {"states": None if problem else [asdict(state) for state in states]})
        return
    console = make_console()
    _render(console, model)
    if problem:
        console.print(f"\n[yellow]How the nodes do cannot be told:[/] {escape(problem)}")
    elif states:
        console.print("", make_state_table(states, with_model=False))


def _try_states(edge: str, model: str) -> tuple[list[VersionState], str]:
    """The deployed versions' states, or why they cannot be told."""
    try:
        return [state for state in read_states(edge) if state.model == model], ""
    except CallFailed as problem:
        return [], str(problem)


def _render(console: Console, model: dict[str, Any]) -> None:
    deployment = model["deployment"]
    aliases = ", ".join(f"{name}={version}" for name, version in model["aliases"].items())
    console.print(f"[bold cyan]{escape(model['name'])}[/]  {model['task']}")
    console.print(f"aliases   {escape(aliases) or '-'}")
    replicas = f" on {deployment['replicas']} nodes" if deployment else ""
    console.print(f"serving   {render_targets(deployment)}{replicas}")
    for version in model["versions"]:
        created = datetime.fromtimestamp(version["created_unix_ms"] / 1000, UTC).astimezone()
        console.print(
            f"\n[bold]version {version['version']}[/]  {created:%Y-%m-%d %H:%M}  "
            f"[dim]{version['digest'][:12]}[/]  {escape(version['description'])}"
        )
        table = make_table("file", "size", "digest")
        table.columns[1].justify = "right"
        for file in version["files"]:
            size = f"{file['size_bytes'] / 1e6:.2f} MB"
            table.add_row(escape(file["path"]), size, f"[dim]{file['digest'][:12]}[/]")
        if version["files"]:
            console.print(table)
