"""Which mesh a command is about: that of a state folder, or one whose edge is named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesh.local.run_state import read_record

StateDir = Annotated[
    Path,
    typer.Option("--state-dir", envvar="RINGMESH_STATE_DIR", help="State folder of the mesh."),
]
Edge = Annotated[
    str | None,
    typer.Option(
        "--edge",
        envvar="RINGMESH_EDGE",
        help="host:port of a mesh's edge; by default that of the mesh on this machine.",
    ),
]


def find_edge(edge: str | None, state_dir: Path = Path(".ringmesh")) -> str:
    """The edge's `host:port`.

    Raises:
        MeshNotRunning: none is named, and no mesh runs in the state folder.
    """
    if edge is not None:
        return edge.removeprefix("http://").rstrip("/")
    return read_record(state_dir).edge
