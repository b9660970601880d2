"""Which variables of the environment mean something to a mesh, and what one of the others may mean.

A variable that nobody reads changes nothing, and whoever misspelt it would look for the reason
elsewhere. The services' own variables are named here because this package cannot know the services;
a test holds the list against their settings.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from mesh.local.plan import OF_THIS_MESH
from mesh.local.settings import LocalSettings

PREFIX = "RINGMESH_"
_NEAR = 0.75

COMMANDS = frozenset({"RINGMESH_CACHE_DIR", "RINGMESH_EDGE"})
"""What commands read themselves."""

HANDED_ON = frozenset(
    {
        "RINGMESH_CONCURRENT_LOADS",
        "RINGMESH_ENGINE_SPIN",
        "RINGMESH_ENGINE_THREADS",
        "RINGMESH_GENERATE_TIMEOUT_S",
        "RINGMESH_GRPC_SERVER",
        "RINGMESH_INFER_TIMEOUT_S",
        "RINGMESH_MAX_BLOB_BYTES",
        "RINGMESH_MAX_BODY_BYTES",
        "RINGMESH_MAX_QUEUE_ROWS",
        "RINGMESH_MEMORY_BUDGET_BYTES",
        "RINGMESH_REGISTRY_DATABASE_URL",
        "RINGMESH_RESUME_ATTEMPTS",
        "RINGMESH_STORE_URL",
        "RINGMESH_UNLOAD_TIMEOUT_S",
    }
)
"""What the services read."""

_LOCAL = frozenset(f"{PREFIX}{name.upper()}" for name in LocalSettings.model_fields)
KNOWN = _LOCAL | COMMANDS | HANDED_ON
"""What a user may set."""
DECIDED = OF_THIS_MESH - KNOWN
"""What the services read, and a mesh on one machine decides for each of them."""
_OF_DEVELOPERS = ("RINGMESH_FUZZ_", "RINGMESH_SOAK_")


def find_strays(env: Mapping[str, str]) -> list[str]:
    """A sentence about each variable that looks like one of the mesh's and changes nothing."""
    own = sorted(name for name in env if name.startswith(PREFIX))
    return [_explain(name) for name in own if name not in KNOWN and not _is_developers(name)]


def _is_developers(name: str) -> bool:
    return name.startswith(_OF_DEVELOPERS)


def _explain(name: str) -> str:
    if name in DECIDED:
        return f"{name} changes nothing here: `ringmesh up` decides it for each process."
    near = difflib.get_close_matches(name, sorted(KNOWN | DECIDED), n=1, cutoff=_NEAR)
    hint = f"did you mean {near[0]}?" if near else "docs/running.md lists those that do."
    if near and near[0] in DECIDED:
        hint += " That one is decided by `ringmesh up` for each process."
    return f"{name} changes nothing: no such variable is known; {hint}"
