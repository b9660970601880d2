"""Free ports, for whoever must name a port before the process that will listen there starts."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path

LOWEST = 10_000
EPHEMERAL = 32_768
"""Where Linux begins to pick ports for outgoing connections, unless it is told otherwise."""
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """`count` different ports that are free now; they are held together, so none comes twice.

    They lie below those of outgoing connections, one of which could else take a port before its
    process listens there; a client that tries again and again can even connect to itself.

    Raises:
        OSError: there are not so many.
    """
    candidates = random.SystemRandom().sample(range(LOWEST, _first_ephemeral()), k=50 * count)
    with ExitStack() as held:
        found: list[int] = []
        for port in candidates:
            if len(found) == count:
                break
            listener = held.enter_context(socket.socket())
            if _is_bound(listener, host, port):
                found.append(port)
        if len(found) < count:
            raise OSError(f"no {count} free ports from {LOWEST} on")
        return found


def _is_bound(listener: socket.socket, host: str, port: int) -> bool:
    try:
        listener.bind((host, port))
    except OSError:
        return False
    return True


def _first_ephemeral() -> int:
    try:
        first = int(_RANGE.read_text().split()[0])
    except (OSError, ValueError):
        first = EPHEMERAL
    # A machine that leaves nothing below gets ports from among them.
    return first if first > LOWEST + 1000 else EPHEMERAL
