"""`ringmesh config`: settings that change the mesh while it runs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Annotated, Any, TypeVar

import grpc
import typer
from rich.markup import escape

from mesh.cli.call import TIMEOUT_S, call
from mesh.cli.output import JsonFlag, make_console, make_table, print_json, print_line
from mesh.cli.place import Edge, StateDir, find_edge
from mesh.pb import config_pb2 as pb
from mesh.pb import config_pb2_grpc

app = typer.Typer(no_args_is_help=True, help="Read and change the settings of the running mesh.")

Key = Annotated[str, typer.Argument(help="The setting, as `ringmesh config list` names it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the history.")]
Here = Path(".ringmesh")

T = TypeVar("T")
Ask = Callable[[config_pb2_grpc.ConfigStub], Awaitable[T]]


@app.command("list")
def list_settings(edge: Edge = None, state_dir: StateDir = Here, as_json: JsonFlag = False) -> None:
    """List every setting with its value."""
    answer = _ask(
        edge, state_dir, lambda c: c.ListSettings(pb.ListSettingsRequest(), timeout=TIMEOUT_S)
    )
    found = [_read(each) for each in answer.settings]
    if as_json:
        print_json(found)
        return
    table = make_table("setting", "value", "revision", "about")
    for each in found:
        value = escape(json.dumps(each["value"]))
        revision = str(each["revision"]) if each["revision"] else "[dim]default[/]"
        table.add_row(f"[cyan]{each['key']}[/]", value, revision, escape(each["description"]))
    make_console().print(table)


@app.command("get")
def get_setting(
    key: Key, edge: Edge = None, state_dir: StateDir = Here, as_json: JsonFlag = False
) -> None:
    """Print the value of a setting."""
    request = pb.GetSettingRequest(key=key)
    setting = _ask(edge, state_dir, lambda c: c.GetSetting(request, timeout=TIMEOUT_S))
    if as_json:
        print_json(_read(setting))
    else:
        make_console().print(setting.value_json, markup=False, soft_wrap=True)


@app.command("set")
def set_setting(
    key: Key,
    value: Annotated[str, typer.Argument(help="The new value: JSON, or plain text.")],
    *,
    reason: Reason = "",
    edge: Edge = None,
    state_dir: StateDir = Here,
    as_json: JsonFlag = False,
) -> None:
    """Change a setting; the mesh takes it up while it runs."""
    request = pb.SetSettingRequest(
        key=key, value_json=read_value(value), actor=getuser(), reason=reason
    )
    setting = _ask(edge, state_dir, lambda c: c.SetSetting(request, timeout=TIMEOUT_S))
    _say_changed(setting, as_json=as_json)


@app.command("rollback")
def rollback_setting(
    key: Key,
    revision: Annotated[int, typer.Argument(min=0, help="Whose value returns; 0: the default.")],
    *,
    reason: Reason = "",
    edge: Edge = None,
    state_dir: StateDir = Here,
    as_json: JsonFlag = False,
) -> None:
    """Give a setting the value back that it had at an earlier revision."""
    request = pb.RollbackSettingRequest(key=key, revision=revision, actor=getuser(), reason=reason)
    setting = _ask(edge, state_dir, lambda c: c.RollbackSetting(request, timeout=TIMEOUT_S))
    _say_changed(setting, as_json=as_json)


@app.command("history")
def show_history(
    key: Key, edge: Edge = None, state_dir: StateDir = Here, as_json: JsonFlag = False
) -> None:
    """Show the revisions of a setting, the newest first."""
    request = pb.ListRevisionsRequest(key=key)
    answer = _ask(edge, state_dir, lambda c: c.ListRevisions(request, timeout=TIMEOUT_S))
    if as_json:
        print_json([_read_revision(each) for each in answer.revisions])
        return
    table = make_table("revision", "value", "when", "who", "why")
    for each in answer.revisions:
        value = escape(each.value_json)
        who, why = escape(each.actor), escape(each.reason)
        table.add_row(str(each.revision), value, _time(each.changed_unix_ms), who, why)
    make_console().print(table if answer.revisions else f"{key} was never changed.")


@app.command("watch")
def watch_settings(
    edge: Edge = None, state_dir: StateDir = Here, as_json: JsonFlag = False
) -> None:
    """Print all settings, then each change as it happens; Ctrl-C ends it."""
    console = make_console()

    async def run(channel: grpc.aio.Channel) -> None:
        stub = config_pb2_grpc.ConfigStub(channel)
        async for answer in stub.WatchSettings(pb.WatchSettingsRequest()):
            for setting in answer.settings:
                if as_json:
                    print_line(_read(setting))
                else:
                    console.print(f"[cyan]{setting.key}[/] = {escape(setting.value_json)}")

    call(find_edge(edge, state_dir), run)


def read_value(text: str) -> str:
    """The text as JSON: itself if it is JSON already, else the string that it is."""
    try:
        json.loads(text)
    except ValueError:
        return json.dumps(text)
    return text


def _ask(edge: str | None, state_dir: Path, ask: Ask[T]) -> T:
    async def through(channel: grpc.aio.Channel) -> T:
        return await ask(config_pb2_grpc.ConfigStub(channel))

    return call(find_edge(edge, state_dir), through)


def _say_changed(setting: pb.Setting, *, as_json: bool) -> None:
    if as_json:
        print_json(_read(setting))
        return
    text = f"{setting.key} = {setting.value_json} (revision {setting.revision})"
    make_console().print(text, markup=False, soft_wrap=True)


def _read(setting: pb.Setting) -> dict[str, Any]:
    return {
        "key": setting.key,
        "value": json.loads(setting.value_json),
        "revision": setting.revision,
        "default": json.loads(setting.default_json) if setting.default_json else None,
        "description": setting.description,
        "schema": json.loads(setting.schema_json) if setting.schema_json else None,
        "changed_unix_ms": setting.changed_unix_ms,
        "actor": setting.actor,
    }


def _read_revision(revision: pb.Revision) -> dict[str, Any]:
    return {
        "revision": revision.revision,
        "value": json.loads(revision.value_json),
        "changed_unix_ms": revision.changed_unix_ms,
        "actor": revision.actor,
        "reason": revision.reason,
    }


def _time(unix_ms: int) -> str:
    return f"{datetime.fromtimestamp(unix_ms / 1000, UTC).astimezone():%Y-%m-%d %H:%M:%S}"
