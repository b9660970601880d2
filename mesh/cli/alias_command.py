"""`ringmesh alias`: movable names for versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.call import TIMEOUT_S
from mesh.cli.output import JsonFlag, make_console, print_json
from mesh.cli.place import Edge, StateDir, find_edge
from mesh.cli.registry_call import ask_registry, read_model
from mesh.pb import registry_pb2 as pb

app = typer.Typer()


@app.command()
def alias(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    name: Annotated[str, typer.Argument(help="The alias, such as champion.")],
    version: Annotated[
        int | None, typer.Argument(min=1, help="Where it points from now on.")
    ] = None,
    *,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the alias.")] = False,
    edge: Edge = None,
    state_dir: StateDir = Path(".ringmesh"),
    as_json: JsonFlag = False,
) -> None:
    """Point an alias at a version of a model, or remove it."""
    if delete == (version is not None):
        raise typer.BadParameter("give a version, or --delete")
    address = find_edge(edge, state_dir)
    if version is None:
        removal = pb.DeleteAliasRequest(model=model, alias=name)
        answer = ask_registry(address, lambda r: r.DeleteAlias(removal, timeout=TIMEOUT_S))
    else:
        move = pb.SetAliasRequest(model=model, alias=name, version=version)
        answer = ask_registry(address, lambda r: r.SetAlias(move, timeout=TIMEOUT_S))
    if as_json:
        print_json(read_model(answer))
    elif version is None:
        make_console().print(f"{model}@{name} is gone.")
    else:
        make_console().print(f"{model}@{name} is version {version} now.")
