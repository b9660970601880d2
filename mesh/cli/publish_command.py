"""`ringmesh publish`: files on this machine become the next version of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import grpc
import typer

from mesh.cli.call import call
from mesh.cli.output import JsonFlag, make_console, print_json
from mesh.cli.place import Edge, StateDir, find_edge
from mesh.cli.registry_call import read_version
from mesh.errors import InvalidArgument
from mesh.local.model_files import guess_kind, guess_name
from mesh.local.problem import LocalProblem
from mesh.local.publish import LocalFile, Publisher, read_files
from mesh.manifest import Manifest
from mesh.pb.registry_pb2 import ModelVersion

app = typer.Typer()
MANIFEST = "manifest.json"


@app.command()
def publish(
    path: Annotated[
        Path, typer.Argument(exists=True, help="The model's folder, or its one file (GGUF, ONNX).")
    ],
    *,
    name: Annotated[str | None, typer.Option(help="The model's name.")] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(exists=True, help="The manifest; else <folder>/manifest.json, else guessed."),
    ] = None,
    description: Annotated[str, typer.Option(help="What is new in this version.")] = "",
    deploy: Annotated[
        bool, typer.Option("--deploy", help="Also give it all of the model's traffic.")
    ] = False,
    replicas: Annotated[int, typer.Option(min=1, help="Nodes that should hold it.")] = 2,
    edge: Edge = None,
    state_dir: StateDir = Path(".ringmesh"),
    as_json: JsonFlag = False,
) -> None:
    """Put a model's files into the registry as its next version."""
    described = read_manifest(path, manifest, name)
    address = find_edge(edge, state_dir)
    console = make_console()
    with console.status(f"Reading {path} …"):
        files = [file for file in read_files(path) if file.path != MANIFEST]

    async def run(channel: grpc.aio.Channel) -> ModelVersion:
        return await _publish(
            Publisher(channel),
            described,
            files,
            description=description,
            deploy=deploy,
            replicas=replicas,
        )

    with console.status(f"Publishing {described.name} …"):
        version = call(address, run)
    if as_json:
        print_json(read_version(version))
        return
    console.print(f"Published {version.model} version {version.version}.")
    if not deploy:
        console.print(f"Serve it with: ringmesh deploy {version.model} {version.version}")


def read_manifest(path: Path, manifest: Path | None, name: str | None) -> Manifest:
    """The manifest that the user wrote, or the one that the files suggest.

    Raises:
        LocalProblem: it is wrong, or the files suggest none.
    """
    written = manifest or path / MANIFEST
    try:
        if written.is_file():
            return _renamed(Manifest.from_json(written.read_bytes()), name)
        return Manifest.model_validate({"name": name or guess_name(path), **guess_kind(path)})
    except InvalidArgument as error:
        raise LocalProblem(f"{written}: {error.message}.") from error
    except ValueError as error:
        raise LocalProblem(f"{path.stem!r} is no model name: give one with --name.") from error


def _renamed(manifest: Manifest, name: str | None) -> Manifest:
    return (
        manifest
        if name is None
        else Manifest.model_validate({**manifest.model_dump(), "name": name})
    )


async def _publish(
    publisher: Publisher,
    manifest: Manifest,
    files: list[LocalFile],
    *,
    description: str,
    deploy: bool,
    replicas: int,
) -> ModelVersion:
    version = await publisher.publish(manifest, files, description)
    if deploy:
        await publisher.deploy(version.model, str(version.version), replicas)
    return version
