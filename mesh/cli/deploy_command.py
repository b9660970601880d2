"""`ringmesh deploy`: which versions of a model take its traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.cli.call import TIMEOUT_S, CallFailed
from mesh.cli.deploying import REPLICAS, WAIT_S, WaitOption, deploy_and_wait, report
from mesh.cli.output import JsonFlag, make_console, print_json
from mesh.cli.place import Edge, StateDir, find_edge
from mesh.cli.registry_call import ask_registry, read_deployment, render_targets
from mesh.cli.version_state import VersionState, read_states
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
    replicas: Annotated[int, typer.Option(min=1, help="Nodes that hold each version.")] = REPLICAS,
    may_page: Annotated[
        bool,
        typer.Option(
            "--may-page",
            help="Let a node take it out of memory for others; the next request brings it back.",
        ),
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Serve the model no more.")] = False,
    wait: WaitOption = WAIT_S,
    edge: Edge = None,
    state_dir: StateDir = Path(".ringmesh"),
    as_json: JsonFlag = False,
) -> None:
    """Say which versions of a model take its traffic, and wait until they answer."""
    address = find_edge(edge, state_dir)
    if remove:
        request = pb.DeleteDeploymentRequest(model=model)
        ask_registry(address, lambda r: r.DeleteDeployment(request, timeout=TIMEOUT_S))
        _say({"model": model, "removed": True}, f"{model} is served no more.", as_json=as_json)
        return

    def tell(deployment: dict[str, Any]) -> None:
        if not as_json:
            make_console().print(_describe(deployment))

    if targets:
        wanted = pb.SetDeploymentRequest(
            model=model, targets=read_targets(targets), replicas=replicas, may_page=may_page
        )
        found, states = deploy_and_wait(address, wanted, wait, tell)
    else:
        asked = pb.GetDeploymentRequest(model=model)
        answer = ask_registry(address, lambda r: r.GetDeployment(asked, timeout=TIMEOUT_S))
        found, states = read_deployment(answer), _states_now(address, model)
        tell(found)
    if as_json:
        print_json(found | {"states": [asdict(state) for state in states]})
    else:
        report(states)


def _states_now(edge: str, model: str) -> list[VersionState]:
    try:
        return [state for state in read_states(edge) if state.model == model]
    except CallFailed:
        return []  # the registry has answered what was asked


def _describe(deployment: dict[str, Any]) -> str:
    model, replicas = deployment["model"], deployment["replicas"]
    text = f"{model} serves {render_targets(deployment)}; nodes for each version: {replicas}."
    return f"{text} It may be paged out of memory." if deployment["may_page"] else text


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
