"""What identifies a model version: its manifest and its files, under one digest.

The same artefact always has the same digest, whoever publishes it and in which order it names the
files; so publishing is idempotent, and engines built from an artefact can be shared by its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from mesh.deployment import ArtefactFile, check_paths
from mesh.errors import InvalidArgument
from mesh.manifest import Manifest

MAX_FILES = 512
MAX_MANIFEST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Artefact:
    """A manifest with its files, sorted by path."""

    manifest: Manifest
    files: tuple[ArtefactFile, ...]
    digest: str


def make_artefact(
    manifest_json: str, files: Iterable[tuple[str, str, int]], field: str = "manifest_json"
) -> Artefact:
    """Checks what a publisher sent; `files` are paths, digests and sizes.

    Raises:
        InvalidArgument: naming the field that is wrong.
    """
    if len(manifest_json) > MAX_MANIFEST_BYTES:
        raise InvalidArgument(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes", field=field)
    manifest = Manifest.from_json(manifest_json, field=field)
    checked = [_file(index, *file) for index, file in enumerate(files)]
    if len(checked) > MAX_FILES:
        raise InvalidArgument(f"an artefact has at most {MAX_FILES} files", field="files")
    try:
        check_paths(file.path for file in checked)
    except ValueError as error:
        raise InvalidArgument(str(error), field="files") from error
    ordered = tuple(sorted(checked, key=lambda file: file.path))
    return Artefact(manifest, ordered, artefact_digest(manifest, ordered))


def artefact_digest(manifest: Manifest, files: Iterable[ArtefactFile]) -> str:
    """SHA-256 over manifest and files as JSON with sorted keys and without spaces."""
    listed = sorted((file.path, file.digest, file.size_bytes) for file in files)
    identity = {"manifest": manifest.model_dump(mode="json", exclude_none=True), "files": listed}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _file(index: int, path: str, digest: str, size_bytes: int) -> ArtefactFile:
    try:
        return ArtefactFile(path=path, digest=digest, size_bytes=size_bytes)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join((f"files[{index}]", *(str(part) for part in first["loc"])))
        raise InvalidArgument(
            f"{where}: {first['msg'].removeprefix('Value error, ')}", field=where
        ) from error
