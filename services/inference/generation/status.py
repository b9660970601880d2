"""The states of a node's model versions as messages. Pure."""

from __future__ import annotations

from typing import Protocol

from mesh.pb import node_pb2


class ModelState(Protocol):
    """A state by the name that the protocol gives it: `READY`."""

    @property
    def name(self) -> str:
        """The name."""


class ModelStatus(Protocol):
    """What is known of a model version on this node."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def version(self) -> int:
        """The version's number."""

    @property
    def state(self) -> ModelState:
        """Where it is between being asked for and being gone."""

    @property
    def reason(self) -> str:
        """Why it is in this state, if there is something to say."""

    @property
    def backend(self) -> str:
        """The engine it runs on."""

    @property
    def memory_bytes(self) -> int:
        """What it takes."""


def write_status(status: ModelStatus) -> node_pb2.ModelStatus:
    """The state of a version."""
    return node_pb2.ModelStatus(
        model=status.model,
        version=str(status.version),
        state=f"MODEL_STATE_{status.state.name}",
        reason=status.reason,
        backend=status.backend,
        memory_bytes=status.memory_bytes,
    )
