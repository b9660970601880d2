"""`ringmesh show`: one model, whole."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from mesh.cli.output import JsonFlag, make_console, make_table, print_json
from mesh.cli.place import Edge, StateDir, find_edge
from mesh.cli.registry_call import ask_registry, render_targets, show_model

app = typer.Typer()


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    edge: Edge = None,
    state_dir: StateDir = Path(".ringmesh"),
    as_json: JsonFlag = False,
) -> None:
    """Show a model: its versions, aliases, deployment and files."""
    model = ask_registry(find_edge(edge, state_dir), lambda registry: show_model(registry, name))
    if as_json:
        print_json(model)
    else:
        _render(model)


def _render(model: dict[str, Any]) -> None:
    console = make_console()
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
