"""Changes what serves, and waits until it does: what `deploy` and `publish --deploy` share.

The mesh follows a deployment as it is asked to, whether or not the new version turns out to load;
so whoever is told that it does not is told in the same breath how to go back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import typer

from mesh.cli.call import TIMEOUT_S
from mesh.cli.http_call import open_edge
from mesh.cli.output import make_console
from mesh.cli.registry_call import (
    Json,
    ask_registry,
    deployed_versions,
    find_deployment,
    read_deployment,
)
from mesh.cli.settling import VersionFailed, VersionNotReady, Wanted, await_settled
from mesh.cli.version_state import TIMEOUT_S as ASK_TIMEOUT_S
from mesh.cli.version_state import VersionState, ask_routed, ask_states, explain
from mesh.pb import registry_pb2 as pb

WAIT_S = 300.0
"""A large model may take minutes to fetch and compile."""
REPLICAS = 2

WaitOption = Annotated[
    float,
    typer.Option("--wait", min=0, help="Seconds to wait until it answers; 0: do not wait."),
]


def deploy_and_wait(
    edge: str, request: pb.SetDeploymentRequest, wait_s: float, on_set: Callable[[Json], None]
) -> tuple[Json, list[VersionState]]:
    """The deployment, and the states of its versions when all answer; none where nobody waits.

    Raises:
        VersionFailed: one does not load; the message has each node's reason.
        VersionNotReady: the time is over.
    """
    before = ask_registry(edge, partial(find_deployment, model=request.model))
    answer = ask_registry(edge, lambda r: r.SetDeployment(request, timeout=TIMEOUT_S))
    deployment = read_deployment(answer)
    on_set(deployment)
    if not wait_s:
        return deployment, []
    try:
        return deployment, await_deployed(edge, deployment, wait_s)
    except (VersionFailed, VersionNotReady) as problem:
        raise type(problem)(f"{problem}{way_back(before, deployment)}") from problem


def await_deployed(edge: str, deployment: Json, wait_s: float) -> list[VersionState]:
    """The states of the versions with traffic, when all answer; raises as `deploy_and_wait`."""
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


def way_back(before: Json | None, after: Json) -> str:
    """The command that serves again what was served before, where that was something else."""
    if before is None or before["targets"] == after["targets"]:
        return ""
    shares = [f"{each['version']}:{each['weight']}" for each in before["targets"]]
    targets = before["targets"][0]["version"] if len(shares) == 1 else " ".join(shares)
    replicas = "" if before["replicas"] == REPLICAS else f" --replicas {before['replicas']}"
    may_page = " --may-page" if before["may_page"] else ""
    return f" Go back with: ringmesh deploy {before['model']} {targets}{replicas}{may_page}"


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
