"""The entry of the command line: names every command, imports only the one that is asked for.

Importing all of them would cost half a second at each call, most of it for gRPC and HTTP clients
that most commands do not need.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from mesh.cli.output import print_failure
from mesh.local.problem import LocalProblem

COMMANDS = {
    "up": "Start the whole mesh on this machine and keep it running.",
    "down": "Stop the mesh that runs on this machine.",
    "status": "Show the mesh's processes, instances and models.",
    "logs": "Show the logs of the mesh's processes.",
    "doctor": "Check whether this machine can run a mesh.",
    "models": "List the models of the registry.",
    "show": "Show a model: its versions, aliases, deployment, files and nodes.",
    "publish": "Put a model's files into the registry as its next version.",
    "deploy": "Say which versions of a model take its traffic.",
    "alias": "Point an alias at a version of a model, or remove it.",
    "config": "Read and change the settings of the running mesh.",
    "trace": "Draw a request's trace, or list the latest ones.",
    "chat": "Talk to a language model.",
    "infer": "Send tensors to a model.",
}


class LazyGroup(TyperGroup):
    """Lists commands from the table, and loads one when it is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, summary in COMMANDS.items():
            self.add_command(TyperCommand(name, help=summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Replaces the entry of the table by the command itself."""
        if args and args[0] in COMMANDS:
            self.add_command(load_command(args[0]), args[0])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """The edge at which problems become one sentence and an exit status."""
        try:
            return super().invoke(ctx)
        except LocalProblem as problem:
            print_failure(str(problem), type(problem).__name__, as_json="--json" in sys.argv)
            raise typer.Exit(1) from problem


def load_command(name: str) -> Any:
    """The command of this name, from the module of the same name."""
    module = importlib.import_module(f"mesh.cli.{name}_command")
    command: Any = typer.main.get_command(module.app)
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup,
    help="Serve models as a mesh.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _ringmesh() -> None:
    """Serve models as a mesh."""


if __name__ == "__main__":
    app()
