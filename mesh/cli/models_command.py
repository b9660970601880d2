"""`ringmesh models`: what the registry holds."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from mesh.cli.output import JsonFlag, make_console, make_table, print_json
from mesh.cli.place import Edge, StateDir, find_edge
from mesh.cli.registry_call import ask_registry, list_models, render_targets

app = typer.Typer()


@app.command()
def models(
    edge: Edge = None, state_dir: StateDir = Path(".ringmesh"), as_json: JsonFlag = False
) -> None:
    """List the models of the registry."""
    found = ask_registry(find_edge(edge, state_dir), list_models)
    if as_json:
        print_json(found)
        return
    table = make_table("model", "task", "versions", "aliases", "serving", "replicas")
    for model in found:
        aliases = ", ".join(f"{name}={version}" for name, version in model["aliases"].items())
        deployment = model["deployment"]
        table.add_row(
            f"[cyan]{escape(model['name'])}[/]",
            model["task"],
            ", ".join(map(str, model["versions"])),
            escape(aliases) or "-",
            render_targets(deployment),
            str(deployment["replicas"]) if deployment else "-",
        )
    make_console().print(table if found else "No models yet: `ringmesh publish` adds one.")
