"""What an inference node is told by its environment."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from mesh.capacity import memory_bytes
from mesh.settings import ServiceSettings


class NodeSettings(ServiceSettings):
    """A node's settings. `node_id` is its name in Consul, in placements and in every answer."""

    node_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    store_url: str | None = None
    """Where artefacts lie; by default a folder of the state directory."""
    engine_threads: int | None = Field(default=None, ge=1)
    """Threads that one model computes with; by default one per core, and the system shares them
    out between the models and nodes of a machine."""
    engine_spin: bool = False
    """Whether those threads spin while they wait: quicker on a machine of one's own, and a loss on
    a shared one."""
    concurrent_loads: int = Field(default=2, ge=1)
    """How many models may be loading at once: each takes a core and, for a while, more memory."""
    max_queue_rows: int = Field(default=4096, ge=1)
    """Rows that may wait for one tensor model before callers are told to come back."""
    unload_timeout_s: float = Field(default=300.0, ge=0)
    """How long a model that was taken away waits for the answers that are under way."""

    memory_budget_bytes: int | None = Field(default=None, ge=0)
    """What the node's models may take of memory together; by default four fifths of what the
    machine has, or the container."""

    @property
    def memory_budget(self) -> int:
        """The budget in force."""
        if self.memory_budget_bytes is not None:
            return self.memory_budget_bytes
        return memory_bytes() * 4 // 5

    @property
    def artefact_store_url(self) -> str:
        """The artefact store."""
        return self.store_url or self.store_default
