"""The model that gives back what it gets: any number of tensors of any name, datatype and shape.

It computes nothing, so it shows what the mesh itself costs, and whether tensors pass unharmed.
"""

from __future__ import annotations

import time

from mesh.deployment import VersionSpec
from mesh.tensor import Tensor
from services.inference.batching.terms import NO_LEVELS, Terms, check_level
from services.inference.models.tensor_model import Signature, TensorAnswer
from services.inference.models.timing import Execution, Timing


class IdentityModel:
    """One version of it."""

    backend = "identity"
    memory_bytes = 0
    signature = Signature(platform="identity", is_open=True)

    def __init__(self, name: str, version: int) -> None:
        self.name = name
        self.version = version

    async def infer(self, inputs: tuple[Tensor, ...], terms: Terms) -> TensorAnswer:
        """The inputs themselves."""
        check_level(terms.priority, NO_LEVELS)
        now_ns = time.time_ns()
        run = Execution(rows=1, began_ns=now_ns, ended_ns=now_ns)
        return TensorAnswer(inputs, Timing(now_ns, now_ns, executions=(run,)))

    async def warm_up(self) -> None:
        """Nothing gets warmer."""

    async def close(self) -> None:
        """Nothing is held."""


def open_identity(spec: VersionSpec) -> IdentityModel:
    """The artefact is its manifest alone."""
    return IdentityModel(spec.manifest.name, spec.version)
