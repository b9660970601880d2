"""Where the parts of a local mesh listen: the ports that users know, and free ones for the rest."""

import errno
import socket
import time
from dataclasses import dataclass

from mesh.local.problem import LocalProblem
from mesh.local.settings import LocalSettings
from mesh.ports import free_ports

HOST = "127.0.0.1"
RELEASE_WAIT_S = 2.0
"""How long the processes of a mesh that was just killed may take to let go of their ports."""


class PortTaken(LocalProblem):
    """A port that users know is in use."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Each `host:port`."""

    edge: str
    consul: str
    envoy_admin: str
    mesh: str
    """Envoy's listener for calls from the gateway to the nodes."""
    controlplane: str
    tracesink: str
    consul_server: str
    consul_serf: str


def choose_addresses(settings: LocalSettings) -> Addresses:
    """Picks free ports, and checks those that the settings name.

    Raises:
        PortTaken: a named port is in use, or named twice.
    """
    known = {
        "RINGMESH_EDGE_PORT": settings.edge_port,
        "RINGMESH_ENVOY_ADMIN_PORT": settings.envoy_admin_port,
        "RINGMESH_CONSUL_PORT": 0 if settings.consul_address else settings.consul_port,
    }
    named: dict[int, str] = {}
    for variable, port in known.items():
        if port:
            _require_free(port, variable)
            if port in named:
                raise PortTaken(f"{named[port]} and {variable} are both {port}: change one.")
            named[port] = variable
    free = free_ports(8)
    edge, admin, consul = (f"{HOST}:{port or free.pop()}" for port in known.values())
    rest = [f"{HOST}:{port}" for port in free]
    return Addresses(edge, settings.consul_address or consul, admin, *rest[:5])


def _require_free(port: int, variable: str) -> None:
    deadline = time.monotonic() + RELEASE_WAIT_S
    while (problem := _try_port(port)) == errno.EADDRINUSE and time.monotonic() < deadline:
        time.sleep(0.05)
    if problem == errno.EADDRINUSE:
        raise PortTaken(
            f"Port {port} is taken: stop the program that uses it, or set {variable} to another "
            f"port."
        )
    if problem:
        raise PortTaken(f"Port {port} may not be used: set {variable} to a port above 1023.")


def _try_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return error.errno or errno.EADDRINUSE
        return 0
