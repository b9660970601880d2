"""An engine in a file: a line that says what it is, and the plan.

The line has the plan's digest and the key that the engine was built for, so that a file which was
cut short, altered, or put under another's name is known before any of it gets to the library.
Pure but for reading and writing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from services.inference.backends.tensorrt.gpu import Architecture
from services.inference.graph.compiled_folder import folder_key

BUILD_VERSION = 2
"""Raised with every change to how engines are built: those of before are built anew."""

FILE = "engine.plan"
_MAGIC = b"ringmesh-engine/1 "
_LONGEST_HEADER = 4096


class EngineDamaged(Exception):
    """The file does not hold the engine that it should."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that the content of an engine depends on."""

    digest: str
    """The artefact's."""
    kind: str
    """The graph's builder and its version: `decoder-1`."""
    flavour: str
    version: str
    architecture: Architecture
    profile: str
    """The shapes: `slots=8 context=2048`."""
    precision: str

    @property
    def parts(self) -> tuple[str, ...]:
        """For the name of the folder that holds the engine."""
        return (
            f"tensorrt-{BUILD_VERSION}",
            self.digest,
            self.kind,
            self.flavour,
            self.version,
            self.architecture.code,
            self.profile,
            self.precision,
        )

    @property
    def name(self) -> str:
        """The engine's name on a disk and in a store."""
        return folder_key(self.parts)


@dataclass(frozen=True, slots=True)
class _Header:
    key: tuple[str, ...]
    plan_sha256: str
    plan_bytes: int


def write_engine(path: Path, key: EngineKey, plan: Path) -> None:
    """Puts the header before a plan."""
    content = plan.read_bytes()
    header = _Header(key.parts, hashlib.sha256(content).hexdigest(), len(content))
    with path.open("wb") as out:
        out.write(_MAGIC + json.dumps(asdict(header), separators=(",", ":")).encode() + b"\n")
        out.write(content)


def read_engine(path: Path, key: EngineKey) -> bytes:
    """The plan; raises `EngineDamaged` if it is not the one for this key, whole."""
    with path.open("rb") as file:
        header = _read_header(file.readline(_LONGEST_HEADER))
        plan = file.read()
    if header.key != key.parts:
        raise EngineDamaged(f"it was built for {' '.join(header.key)}, not {' '.join(key.parts)}")
    if len(plan) != header.plan_bytes:
        raise EngineDamaged(f"it has {len(plan)} bytes of a plan of {header.plan_bytes}")
    if hashlib.sha256(plan).hexdigest() != header.plan_sha256:
        raise EngineDamaged("its content is not what was written")
    return plan


def _read_header(line: bytes) -> _Header:
    if not line.startswith(_MAGIC):
        raise EngineDamaged("it is not an engine's file")
    try:
        fields = json.loads(line.removeprefix(_MAGIC))
        return _Header(tuple(fields["key"]), fields["plan_sha256"], fields["plan_bytes"])
    except (ValueError, KeyError, TypeError) as error:
        raise EngineDamaged(f"its first line cannot be read: {error}") from None
