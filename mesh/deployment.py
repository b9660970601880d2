"""What should be served: the documents by which registry, control plane and nodes agree.

`ringmesh/deployments/<model>` in Consul KV says which versions of a model should serve, and carries
everything a node needs to load them, so that serving never depends on the registry being up;
`ringmesh/placements/<node>` says what one node should hold; `ringmesh/counts/<model>/<version>` is
what a node with the files has found that a version needs. All are checked when they are made: a
document that names a version it does not describe cannot exist. This module knows neither Consul
nor who decides; reading raises `ValueError` on a document that is not one.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from mesh.manifest import Manifest  # pydantic evaluates the annotation
from mesh.reference import LARGEST_VERSION, check_alias, check_name

if TYPE_CHECKING:
    from collections.abc import Iterable

DEPLOYMENTS_PREFIX = "ringmesh/deployments/"
PLACEMENTS_PREFIX = "ringmesh/placements/"
COUNTS_PREFIX = "ringmesh/counts/"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _relative_path(path: str) -> str:
    """Refuses whatever could name a file outside the artefact's own folder."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(c in path for c in "\\\0"):
        raise ValueError(f"{path!r} is not a plain relative path")
    return path


def _sha256(text: str) -> str:
    if _DIGEST.fullmatch(text) is None:
        raise ValueError("a digest is a SHA-256 in 64 lower-case hexadecimal digits")
    return text


ModelName = Annotated[str, AfterValidator(check_name)]
AliasName = Annotated[str, AfterValidator(check_alias)]
VersionNumber = Annotated[int, Field(ge=1, le=LARGEST_VERSION)]
Digest = Annotated[str, AfterValidator(_sha256)]
RelativePath = Annotated[str, Field(max_length=512), AfterValidator(_relative_path)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True)

    def to_json(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        return cls.model_validate_json(text)


class ArtefactFile(_Document):
    """One file of an artefact: its name there, and the content it must have."""

    path: RelativePath
    digest: Digest
    size_bytes: Annotated[int, Field(ge=0)]


class VersionSpec(_Document):
    """An immutable model version, with all that loading it takes."""

    version: VersionNumber
    digest: Digest
    manifest: Manifest
    files: tuple[ArtefactFile, ...]

    @model_validator(mode="after")
    def _files_can_lie_together(self) -> Self:
        check_paths(file.path for file in self.files)
        return self


class TargetSpec(_Document):
    """A version's share of the traffic that names no version."""

    version: VersionNumber
    weight: Annotated[int, Field(ge=0, le=1_000_000)]


class Deployment(_Document):
    """Which versions of a model should be loaded, and how its traffic divides over them."""

    model: ModelName
    revision: Annotated[int, Field(ge=1)]
    replicas: Annotated[int, Field(ge=1, le=1000)]
    may_page: bool = False
    """Whether a node may take a version out of memory between two requests."""
    targets: Annotated[tuple[TargetSpec, ...], Field(min_length=1)]
    aliases: dict[AliasName, VersionNumber]
    versions: dict[VersionNumber, VersionSpec]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        targets = [target.version for target in self.targets]
        if len(set(targets)) != len(targets):
            raise ValueError("a version is a target twice")
        if sum(target.weight for target in self.targets) == 0:
            raise ValueError("the weights add up to nothing")
        missing = {*targets, *self.aliases.values()} - self.versions.keys()
        if missing:
            raise ValueError(f"versions {sorted(missing)} are named but not described")
        if any(number != spec.version for number, spec in self.versions.items()):
            raise ValueError("a version is described under another's number")
        return self


class Assignment(_Document):
    """A model version that a node should hold."""

    model: ModelName
    spec: VersionSpec
    may_page: bool = False


class Count(_Document):
    """What a version needs of a node's memory, as counted by a node that has its files."""

    digest: Digest
    needs_bytes: Annotated[int, Field(ge=0)]


class Placement(_Document):
    """Everything that one node should hold."""

    node: str
    assignments: tuple[Assignment, ...]


def check_paths(paths: Iterable[str]) -> None:
    """Raises `ValueError` unless files of these paths can lie in one folder."""
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise ValueError(f"{path!r} is named twice")
        seen.add(path)
    for path in seen:
        for folder in PurePosixPath(path).parents:
            if str(folder) in seen:
                raise ValueError(f"{str(folder)!r} is a file and a folder")
