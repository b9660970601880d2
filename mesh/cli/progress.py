"""Shows what happens to the mesh's processes: a live line for people, events for programs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from mesh.cli.output import print_line
from mesh.local.event import CrashLooping, Ended, Event, Note, Ready, Started, Stopping, Warned

_NAMES_SHOWN = 4


def report_json(event: Event) -> None:
    """Each event as a line of JSON."""
    with suppress(OSError):  # whoever read has gone
        print_line({"event": type(event).__name__.lower(), **asdict(event)})


class ConsoleProgress:
    """One line per event that a person wants to keep, and one live line for what is awaited.

    Where the output is no terminal, rich leaves the live line out.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = Status("", console=console)
        self._waiting: list[str] = []

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._status.stop()

    def report(self, event: Event) -> None:
        """Shows the event, unless nobody looks any more: a closed terminal stops no shutdown."""
        with suppress(OSError):
            self._track(event)
            if line := render_event(event):
                self._console.print(line, soft_wrap=True)

    def settle(self) -> None:
        """Nothing is awaited any more."""
        self._status.stop()

    def _track(self, event: Event) -> None:
        match event:
            case Started(name=name) if name not in self._waiting:
                self._waiting.append(name)
            case Ready(name=name) if name in self._waiting:
                self._waiting.remove(name)
            case Note(text=text):
                self._status.update(f"{escape(text)} …")
                return
        self._status.update(f"Waiting for {_enumerate(self._waiting)} …" if self._waiting else "")


def _enumerate(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"


def render_event(event: Event) -> str | None:
    """The event as a line of rich markup; None for what only matters while it lasts."""
    match event:
        case Note(text=text) | Warned(text=text):
            mark = "[yellow]![/]" if isinstance(event, Warned) else " "
            return f"{mark} {escape(text)}"
        case Ready(name=name, after_s=after_s):
            return f"[green]✓[/] {name:<14}[dim]{after_s:5.1f} s[/]"
        case Ended(name=name, how=how, uptime_s=uptime_s, again_in_s=again_in_s):
            return (
                f"[yellow]![/] {name} ended ({how}) after {uptime_s:.1f} s; "
                f"starting it again in {again_in_s:.1f} s"
            )
        case CrashLooping(name=name, log=log, last_lines=lines):
            tail = "\n".join(f"    {escape(line)}" for line in lines)
            return (
                f"[red]✗[/] {name} keeps crashing; it is tried again and again. "
                f"The end of {escape(log)}:\n[dim]{tail}[/]"
            )
        case Stopping():
            return "Stopping …"
        case _:
            return None
