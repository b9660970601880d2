"""Decides when a child that ended is started again, and when its crashes are a crash loop.

Pure: it sees how long the child lived, and answers how long to wait.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Waits double from `first_s` to `max_s` until the child has lived for `steady_after_s`."""

    first_s: float = 0.5
    max_s: float = 15.0
    steady_after_s: float = 20.0
    loop_after: int = 4
    """So many short lives in a row are a crash loop."""


@dataclass(frozen=True, slots=True)
class Restart:
    """What follows the end of a child."""

    delay_s: float
    short_lives: int
    """Lives in a row that were too short to count as recovered, this one included."""
    is_loop: bool


def decide_restart(policy: RestartPolicy, short_lives: int, uptime_s: float) -> Restart:
    """The answer to the end of a child that lived `uptime_s` after `short_lives` short ones."""
    lives = 1 if uptime_s >= policy.steady_after_s else short_lives + 1
    # The exponent is bounded so that a child that crashes for weeks does not overflow a float.
    delay_s = min(policy.first_s * 2.0 ** min(lives - 1, 16), policy.max_s)
    return Restart(delay_s, lives, is_loop=lives >= policy.loop_after)
