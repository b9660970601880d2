"""`ringmesh up`: the whole mesh in the foreground of this terminal."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from mesh.cli.output import JsonFlag, print_line
from mesh.cli.progress import ConsoleProgress, report_json
from mesh.errors import RingmeshError
from mesh.local.address import choose_addresses
from mesh.local.cache import find_cache_dir
from mesh.local.demo_models import DemoModels
from mesh.local.environment import find_strays
from mesh.local.event import Note, Report, Warned
from mesh.local.obtain import obtain_all
from mesh.local.plan import Plan
from mesh.local.problem import LocalProblem
from mesh.local.run_state import MeshRecord, owned_state_dir
from mesh.local.settings import LocalSettings
from mesh.local.up import OnReady, run_mesh
from mesh.logs import configure_logs

app = typer.Typer()
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@app.command()
def up(
    demo: Annotated[
        bool, typer.Option("--demo/--no-demo", envvar="RINGMESH_DEMO", help="Serve demo models.")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Start the whole mesh on this machine and keep it running.

    Ctrl-C stops it. RINGMESH_EDGE_PORT, RINGMESH_CONSUL_PORT, RINGMESH_ENVOY_ADMIN_PORT and
    RINGMESH_STATE_DIR move it; RINGMESH_NODES says how many inference nodes it has.
    """
    configure_logs("error", service="up")
    settings = read_settings(demo=demo)
    if as_json:
        _run(settings, report_json, _print_record)
        return
    console = Console(highlight=False)
    with ConsoleProgress(console) as progress:

        def on_ready(record: MeshRecord, trace_id: str | None) -> None:
            progress.settle()
            console.print(
                f"\n[bold green]The mesh is up[/] after {record.ready_after_s:.1f} s; ", end=""
            )
            console.print("Ctrl-C stops it.\n")
            console.print(make_welcome(record, trace_id), markup=False, soft_wrap=True)

        _run(settings, progress.report, on_ready)


def read_settings(*, demo: bool = True) -> LocalSettings:
    """The settings of the environment.

    Raises:
        LocalProblem: one is wrong.
    """
    try:
        return LocalSettings(demo=demo)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        variable = name if name.isupper() else f"RINGMESH_{name.upper()}"
        message = first["msg"].removeprefix("Value error, ")
        raise LocalProblem(f"{variable}: {message}.") from error


def make_welcome(record: MeshRecord, trace_id: str | None) -> str:
    """What a user can do now; the commands can be pasted as they are."""
    tries = make_tries(record, trace_id) if trace_id else [f"{_own_command(record)} publish --help"]
    return f"""\
  edge         http://{record.edge}
  Consul UI    http://{record.consul}/ui
  Envoy admin  http://{record.envoy_admin}

Try:

  {f"{chr(10)}{chr(10)}  ".join(tries)}
"""


def make_tries(record: MeshRecord, trace_id: str) -> list[str]:
    """Commands for the demo models."""
    curl = f"curl -s http://{record.edge}/v1/{{}} -H 'content-type: application/json' -d '{{}}'"
    message = {"role": "user", "content": "What is the capital of France? Answer in one sentence."}
    chat = {"model": "smollm2", "messages": [message], "temperature": 0}
    own = _own_command(record)
    return [
        curl.format("chat/completions", json.dumps(chat)),
        curl.format("embeddings", json.dumps({"model": "minilm", "input": "hello"})),
        f"{own} trace {trace_id}" if record.traces_dir else f"{own} status",
    ]


def _run(settings: LocalSettings, report: Report, on_ready: OnReady) -> None:
    state_dir = settings.state_dir.resolve()
    with owned_state_dir(state_dir):
        report(Note(f"Starting a mesh in {state_dir}"))
        for stray in find_strays(os.environ):
            report(Warned(stray))
        addresses = choose_addresses(settings)
        with _ending_at_once():
            tools, models = obtain_all(settings, find_cache_dir(), report)
        plan = Plan(settings, tools, addresses, state_dir)
        try:
            asyncio.run(_until_signal(plan, models, report, on_ready))
        except RingmeshError as error:
            raise LocalProblem(f"The mesh does not come up: {error.message}.") from error


async def _until_signal(
    plan: Plan, models: DemoModels | None, report: Report, on_ready: OnReady
) -> None:
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)  # asked twice: the children, on their leash, die with us
        stop.set()

    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGTERM:
            asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    await run_mesh(plan, models, report, on_ready, stop)


@contextmanager
def _ending_at_once() -> Iterator[None]:
    """While nothing runs that would need stopping, a signal ends the process where it stands."""

    def end(number: int, _frame: FrameType | None) -> None:
        os._exit(128 + number)

    before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
    for number in _SIGNALS:
        before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)


def _print_record(record: MeshRecord, trace_id: str | None) -> None:
    print_line({"event": "up", **asdict(record), "trace_id": trace_id})


def _own_command(record: MeshRecord) -> str:
    """How the user called this program, so that the printed command works in the same shell."""
    called = Path(sys.argv[0])
    if called.name != "ringmesh":
        command = f"{shlex.quote(sys.executable)} -m mesh.cli.main"
    elif called.is_absolute() and called.is_relative_to(Path.cwd()):
        command = shlex.quote(str(called.relative_to(Path.cwd())))
    else:
        command = shlex.quote(str(called))
    if Path(record.state_dir) == Path(".ringmesh").resolve():
        return command
    return f"RINGMESH_STATE_DIR={shlex.quote(record.state_dir)} {command}"
