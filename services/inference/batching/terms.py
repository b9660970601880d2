"""On what terms a request waits for its turn: what its caller says, and whether that can be."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.errors import InvalidArgument

NO_LEVELS = range(1)
"""The levels of a model without priorities: 0 alone."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The caller's deadline, on the monotonic clock, and what its request says of its own turn.

    Nobody waits for an answer after the deadline. What becomes of a request after its `timeout_s`
    is the model's queue policy to say; priority 0 stands for the model's default. With `is_own` it
    is no caller's but the node's: no policy applies, and it goes before theirs.
    """

    deadline_s: float | None = None
    priority: int = 0
    timeout_s: float | None = None
    is_own: bool = False


ANY_TIME = Terms()
"""No hurry, and nothing special."""
OWN = Terms(is_own=True)
"""A warm-up, or a probe of the engine: limits that are there for callers say nothing about it."""


def check_level(priority: int, levels: range) -> None:
    """Refuses a level that does not exist; 0 always does, as the default."""
    if not priority or priority in levels:
        return
    field = "parameters.priority"
    message = (
        f"there is no level {priority}; the model's levels are 1 to {levels[-1]}, 1 the highest"
        if levels[-1]
        else "the model has no priority levels; leave it out"
    )
    raise InvalidArgument(f"{field}: {message}", field=field)
