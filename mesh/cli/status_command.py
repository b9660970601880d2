"""`ringmesh status`: is everything there, and does it work?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from mesh.cli.call import CallFailed
from mesh.cli.output import JsonFlag, make_console, make_table, print_json
from mesh.cli.place import StateDir
from mesh.cli.version_state import (
    VersionState,
    make_state_table,
    needing_words,
    read_states,
)
from mesh.local.consul_view import ConsulView, InstanceState, ModelState, list_model_states
from mesh.local.run_state import MeshRecord, read_record

app = typer.Typer()


@app.command()
def status(state_dir: StateDir = Path(".ringmesh"), as_json: JsonFlag = False) -> None:
    """Show the mesh's processes, instances and models."""
    record = read_record(state_dir, even_starting=True)
    with ConsulView(record.consul) as consul:
        instances = consul.instances()
        models = list_model_states(consul.deployments(), instances)
    memory = {name: read_memory_bytes(process.pid) for name, process in record.processes.items()}
    states = _try_states(record.edge)
    if as_json:
        print_json(_to_json(record, memory, instances, models, states))
        return
    console = make_console()
    _render_mesh(console, record, memory)
    _render_instances(console, instances)
    _render_models(console, models)
    _render_reasons(console, models, states)


def read_memory_bytes(pid: int) -> int | None:
    """The resident memory of a process; None where it has gone or the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in fields if line.startswith("VmRSS:")]
    return int(found[0]) * 1024 if found else None


def _try_states(edge: str) -> list[VersionState] | str:
    """What the nodes say, or why nobody can ask them: the rest is worth showing all the same."""
    try:
        return read_states(edge)
    except CallFailed as problem:
        return str(problem)


def _to_json(
    record: MeshRecord,
    memory: dict[str, int | None],
    instances: list[InstanceState],
    models: list[ModelState],
    states: list[VersionState] | str,
) -> dict[str, Any]:
    document = asdict(record)
    for name, process in document["processes"].items():
        process["memory_bytes"] = memory[name]
    return document | {
        "instances": [asdict(instance) for instance in instances],
        "models": [asdict(model) for model in models],
        "states": None if isinstance(states, str) else [asdict(state) for state in states],
    }


def _render_mesh(console: Console, record: MeshRecord, memory: dict[str, int | None]) -> None:
    starting = "[yellow]starting[/], " if record.ready_after_s is None else ""
    console.print(f"[bold]Mesh in {escape(record.state_dir)}[/] ({starting}pid {record.pid})\n")
    console.print(f"  edge         http://{record.edge}")
    console.print(f"  Consul UI    http://{record.consul}/ui")
    console.print(f"  Envoy admin  http://{record.envoy_admin}")
    console.print(f"  spans to     {record.traces_dir or record.otlp_endpoint}\n", soft_wrap=True)
    table = make_table("process", "pid", "memory")
    table.columns[2].justify = "right"
    for name, process in record.processes.items():
        size = memory[name]
        shown = "[red]gone[/]" if size is None else f"{size / 1e6:.0f} MB"
        table.add_row(f"[cyan]{name}[/]", str(process.pid), shown)
    whole = sum(size for size in memory.values() if size is not None)
    table.add_row("[dim]all[/]", "", f"[dim]{whole / 1e6:.0f} MB[/]")
    console.print(table)


def _render_instances(console: Console, instances: list[InstanceState]) -> None:
    table = make_table("instance", "address", "health", "ready versions")
    for instance in instances:
        colour = "green" if instance.status == "passing" else "red"
        tags = escape(" ".join(instance.tags))
        health = f"[{colour}]{instance.status}[/]"
        table.add_row(f"[cyan]{escape(instance.id)}[/]", instance.address, health, tags)
    console.print("", table)


def _render_models(console: Console, models: list[ModelState]) -> None:
    table = make_table("model", "version", "weight", "ready on")
    for model in models:
        nodes = ", ".join(model.ready_nodes)
        short = len(model.ready_nodes) < model.replicas
        ready = f"[{'yellow' if short else 'green'}]{len(model.ready_nodes)}/{model.replicas}[/]"
        row = (str(model.version), str(model.weight), f"{ready} {escape(nodes)}")
        table.add_row(f"[cyan]{escape(model.model)}[/]", *row)
    console.print("", table if models else "No model is deployed.")


def _render_reasons(
    console: Console, models: list[ModelState], states: list[VersionState] | str
) -> None:
    """What the nodes have to say of versions that are not simply ready."""
    if isinstance(states, str):
        console.print(f"\n[yellow]Why a version is not ready cannot be told:[/] {escape(states)}")
        return
    replicas = {model.model: model.replicas for model in models}
    if telling := needing_words(states, replicas):
        console.print("", make_state_table(telling, with_model=True))
