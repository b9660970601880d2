"""Consul: who is alive, what the mesh knows, and who leads.

The only package that knows Consul. A process registers itself with a gRPC health check and is put
back if Consul forgets it; watches are blocking queries that survive the loss of Consul by keeping
the last value, so that nothing downstream changes while Consul is away.
"""

from mesh.catalog.catalog import Catalog
from mesh.catalog.entry import KvDelete, KvEntry, KvPut
from mesh.catalog.instance import Instance
from mesh.catalog.lock import LockHeld
from mesh.catalog.registration import Registration

__all__ = [
    "Catalog",
    "Instance",
    "KvDelete",
    "KvEntry",
    "KvPut",
    "LockHeld",
    "Registration",
]
