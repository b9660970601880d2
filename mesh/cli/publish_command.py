"""`ringmesh publish`: files on this machine become the next version of a model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import grpc
import typer

from mesh.cli.call import call
from mesh.cli.deploying import REPLICAS, WAIT_S, WaitOption, deploy_and_wait, report
from mesh.cli.output import JsonFlag, make_console, print_json
from mesh.cli.place import Edge, StateDir, find_edge
from mesh.cli.registry_call import read_version
from mesh.errors import InvalidArgument
from mesh.local.model_files import guess_kind, guess_name
from mesh.local.problem import LocalProblem
from mesh.local.publish import LocalFile, Publisher, check_files, read_files
from mesh.manifest import Manifest
from mesh.pb import registry_pb2 as pb
from mesh.reference import model_name

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
    replicas: Annotated[int, typer.Option(min=1, help="Nodes that should hold it.")] = REPLICAS,
    wait: WaitOption = WAIT_S,
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
        if described.format != "identity":
            check_files(files)

    async def run(channel: grpc.aio.Channel) -> Published:
        return await _publish(Publisher(channel), described, files, description)

    with console.status(f"Publishing {described.name} …"):
        published = call(address, run)
    if as_json:
        print_json(read_version(published.version) | {"is_new": published.is_new})
    else:
        console.print(_describe(published), highlight=False)
    version = published.version
    if deploy:
        wanted = pb.SetDeploymentRequest(
            model=version.model,
            targets=[pb.Target(version=str(version.version), weight=100)],
            replicas=replicas,
        )
        _, states = deploy_and_wait(address, wanted, wait, lambda _: None)
        if not as_json:
            report(states)
    elif not as_json:
        console.print(f"Serve it with: ringmesh deploy {version.model} {version.version}")


@dataclass(frozen=True, slots=True)
class Published:
    """The version that has the artefact, and whether it has just come to be."""

    version: pb.ModelVersion
    is_new: bool


def _describe(published: Published) -> str:
    name = f"{published.version.model} version {published.version.version}"
    if published.is_new:
        return f"Published {name}."
    created = datetime.fromtimestamp(published.version.created_unix_ms / 1000, UTC).astimezone()
    return (
        f"Nothing new: the same files and manifest are {name} since {created:%Y-%m-%d %H:%M}, "
        f"digest {published.version.digest[:12]}."
    )


def read_manifest(path: Path, manifest: Path | None, name: str | None) -> Manifest:
    """The manifest that the user wrote, or the one that the files suggest.

    Raises:
        LocalProblem: it is wrong, or the files suggest none.
    """
    written = manifest or path / MANIFEST
    try:
        if name is not None:
            name = model_name(name, field="--name")
        if written.is_file():
            return _renamed(Manifest.from_json(written.read_bytes()), name)
        described = {"name": name or _guess_name(path), **guess_kind(path)}
        return Manifest.model_validate(described)
    except InvalidArgument as error:
        where = "" if error.field == "--name" else f"{written}: "
        end = "" if error.message.endswith("?") else "."
        raise LocalProblem(f"{where}{error.message}{end}") from error


def _guess_name(path: Path) -> str:
    guessed = guess_name(path)
    if not guessed:
        raise LocalProblem(f"No model name can be made of {path.name!r}: give one with --name.")
    return guessed


def _renamed(manifest: Manifest, name: str | None) -> Manifest:
    return (
        manifest
        if name is None
        else Manifest.model_validate({**manifest.model_dump(), "name": name})
    )


async def _publish(
    publisher: Publisher, manifest: Manifest, files: list[LocalFile], description: str
) -> Published:
    known = await publisher.list_versions(manifest.name)
    version = await publisher.publish(manifest, files, description)
    return Published(version, version.version not in known)
