"""What happens to the mesh's processes, as values; how it is shown is decided elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Note:
    """Something the user should know while waiting."""

    text: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that is most likely not as the user wants it."""

    text: str


@dataclass(frozen=True, slots=True)
class Started:
    """A process was started."""

    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A process does its work now."""

    name: str
    after_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A process ended that should not have; it will be started again."""

    name: str
    how: str
    uptime_s: float
    again_in_s: float


@dataclass(frozen=True, slots=True)
class CrashLooping:
    """A process keeps ending shortly after its start."""

    name: str
    log: str
    last_lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stopping:
    """The mesh is being stopped."""


Event = Note | Warned | Started | Ready | Ended | CrashLooping | Stopping
Report = Callable[[Event], None]
