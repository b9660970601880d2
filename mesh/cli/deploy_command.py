"""`ringmesh deploy`: which versions of a model take its traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from mesh.cli.call import TIMEOUT_S, CallFailed
from mesh.cli.http_call import open_edge
from mesh.cli.output import JsonFlag, make_console, print_json
from mesh.cli.place import Edge, StateDir, find_edge
from mesh.cli.registry_call import ask_registry, deployed_versions, read_deployment, render_targets
from mesh.cli.settling import Wanted, await_settled
from mesh.cli.version_state import (
    TIMEOUT_S as ASK_TIMEOUT_S,
)
from mesh.cli.version_state import (
    VersionState,
    ask_routed,
    ask_states,
    explain,
    read_states,
)
from mesh.pb import registry_pb2 as pb

app = typer.Typer()
WAIT_S = 300.0
"""A large model may take minutes to fetch and compile."""

WaitOption = Annotated[
    float,
    typer.Option("--wait", min=0, help="Seconds to wait until it answers; 0: do not wait."),
]


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
    if not as_json:
        make_console().print(_describe(found))
    states = await_deployed(address, found, wait) if targets else _states_now(address, model)
    if as_json:
        print_json(found | {"states": [asdict(state) for state in states]})
    else:
        report(states)


def await_deployed(edge: str, deployment: dict[str, Any], wait_s: float) -> list[VersionState]:
    """The states of the versions with traffic, when all answer; none where nobody waits.

    Raises:
        VersionFailed: one does not load; the message has each node's reason.
        VersionNotReady: the time is over.
    """
    if not wait_s:
        return []
    model = deployment["model"]
    versions = ask_registry(edge, partial(deployed_versions, deployment=deployment))
    wanted = Wanted(model, versions, deployment["replicas"])
    with (
        make_console().status(f"Waiting until {model} answers …"),
        open_edge(edge, timeout_s=ASK_TIMEOUT_S) as client,
    ):
        return await_settled(
            wanted, partial(ask_states, client), partial(ask_routed, client), wait_s
        )


def report(states: Sequence[VersionState]) -> None:
    """A line for each version: where it is ready, and why it is not on other nodes."""
    console = make_console()
    for state in states:
        name, nodes = f"{state.model}@{state.version}", state.on("READY")
        where = ", ".join(node.node for node in nodes)
        line = f"{name} is ready on {where}." if nodes else f"{name} is {state.state}."
        others = [each for each in state.nodes if each not in nodes and each.state != "UNLOADED"]
        why = explain(others) or ("" if nodes else state.reason)
        console.print(f"{line} {why}".rstrip(), markup=False, soft_wrap=True)


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
