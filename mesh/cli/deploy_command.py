"""`ringmesh deploy`: which versions of a model take its traffic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mesh.cli.call import TIMEOUT_S
from mesh.cli.output import JsonFlag, make_console, print_json
from mesh.cli.place import Edge, StateDir, find_edge
from mesh.cli.registry_call import ask_registry, read_deployment, render_targets
from mesh.pb import registry_pb2 as pb

app = typer.Typer()


@app.command()
def deploy(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="VERSION or VERSION:WEIGHT, a number or an alias; none: show it."),
    ] = None,
    *,
    replicas: Annotated[int, typer.Option(min=1, help="Nodes that hold each version.")] = 2,
    may_page: Annotated[
        bool,
        typer.Option(
            "--may-page",
            help="Let a node take it out of memory for others; the next request brings it back.",
        ),
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Serve the model no more.")] = False,
    edge: Edge = None,
    state_dir: StateDir = Path(".ringmesh"),
    as_json: JsonFlag = False,
) -> None:
    """Say which versions of a model take its traffic."""
    address = find_edge(edge, state_dir)
    if remove:
        request = pb.DeleteDeploymentRequest(model=model)
        ask_registry(address, lambda r: r.DeleteDeployment(request, timeout=TIMEOUT_S))
        _say({"model": model, "removed": True}, f"{model} is served no more.", as_json=as_json)
        return
    if targets:
        wanted = pb.SetDeploymentRequest(
            model=model,
            targets=read_targets(targets),
            replicas=replicas,
            may_page=may_page,
        )
        answer = ask_registry(address, lambda r: r.SetDeployment(wanted, timeout=TIMEOUT_S))
    else:
        asked = pb.GetDeploymentRequest(model=model)
        answer = ask_registry(address, lambda r: r.GetDeployment(asked, timeout=TIMEOUT_S))
    found = read_deployment(answer)
    text = f"{model} serves {render_targets(found)}; nodes for each version: {found['replicas']}."
    if found["may_page"]:
        text += " It may be paged out of memory."
    _say(found, text, as_json=as_json)


def read_targets(texts: Sequence[str]) -> list[pb.Target]:
    """Reads `3` and `3:90`; a weight that is not given is 100."""
    targets = []
    for text in texts:
        version, _, weight = text.partition(":")
        if not version or (weight and not weight.isdigit()):
            raise typer.BadParameter(f"{text!r} is not VERSION or VERSION:WEIGHT")
        targets.append(pb.Target(version=version, weight=int(weight or 100)))
    return targets


def _say(value: object, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        make_console().print(text)
