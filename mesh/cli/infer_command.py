"""`ringmesh infer`: tensors in, tensors out, over the Open Inference Protocol."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer
from rich.markup import escape

from mesh.cli.http_call import open_edge, require_success
from mesh.cli.output import JsonFlag, make_console, make_table, print_json
from mesh.cli.place import Edge, StateDir, find_edge
from mesh.cli.tensor_json import read_input

app = typer.Typer()
_SHOWN_VALUES = 6


@app.command()
def infer(
    model: Annotated[str, typer.Argument(help="Model, model@3 or model@alias.")],
    inputs: Annotated[
        list[str], typer.Argument(help="NAME=VALUE or NAME:DATATYPE=VALUE; VALUE is JSON or text.")
    ],
    *,
    session: Annotated[str | None, typer.Option(help="The session: it stays on one node.")] = None,
    edge: Edge = None,
    state_dir: StateDir = Path(".ringmesh"),
    as_json: JsonFlag = False,
) -> None:
    """Send tensors to a model.

    For example: ringmesh infer minilm 'text=["hello", "world"]'
    """
    with open_edge(find_edge(edge, state_dir)) as client:
        path = f"/v2/models/{quote(model, safe='@')}"
        tensors = [read_input(text, _declared_datatypes(client, path)) for text in inputs]
        headers = {"x-session-id": session} if session else {}
        began = time.monotonic()
        answer = client.post(f"{path}/infer", json={"inputs": tensors}, headers=headers)
        took_s = time.monotonic() - began
        require_success(answer)
    if as_json:
        print_json(answer.json())
    else:
        _render(answer, took_s)


def _declared_datatypes(client: httpx.Client, path: str) -> dict[str, str]:
    answer = client.get(path)
    require_success(answer)
    return {each["name"]: each["datatype"] for each in answer.json().get("inputs", ())}


def _render(answer: httpx.Response, took_s: float) -> None:
    console = make_console()
    table = make_table("output", "datatype", "shape", "data")
    for output in answer.json()["outputs"]:
        shape = "x".join(map(str, output["shape"]))
        data = escape(_shorten(output["data"]))
        table.add_row(f"[cyan]{escape(output['name'])}[/]", output["datatype"], shape, data)
    console.print(table)
    node, trace_id = (answer.headers.get(f"x-ringmesh-{name}", "") for name in ("node", "trace-id"))
    console.print(f"[dim]{node} · {took_s * 1000:.1f} ms · trace {trace_id[:8]}[/]")


def _shorten(data: list[Any]) -> str:
    shown = ", ".join(
        f"{each:.5g}" if isinstance(each, float) else str(each) for each in data[:_SHOWN_VALUES]
    )
    return shown if len(data) <= _SHOWN_VALUES else f"{shown}, … ({len(data)} values)"
