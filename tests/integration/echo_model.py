"""A tensor model with a signature of its own: its outputs are its inputs, by their places."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mesh.tensor import Tensor
from services.inference.batching.terms import Terms
from services.inference.models.tensor_model import Signature, TensorAnswer
from services.inference.models.timing import Execution, Timing


@dataclass
class EchoModel:
    """One version of it; it keeps the terms of the last request."""

    name: str
    signature: Signature
    version: int = 1
    backend: str = "echo"
    memory_bytes: int = 4096
    terms: Terms | None = None

    async def infer(self, inputs: tuple[Tensor, ...], terms: Terms) -> TensorAnswer:
        self.terms = terms
        now_ns = time.time_ns()
        named = zip(self.signature.outputs, inputs, strict=True)
        outputs = tuple(Tensor(spec.name, t.datatype, t.shape, t.raw) for spec, t in named)
        run = Execution(rows=1, began_ns=now_ns, ended_ns=now_ns)
        return TensorAnswer(outputs, Timing(now_ns, now_ns, executions=(run,)))

    async def warm_up(self) -> None: ...

    async def close(self) -> None: ...
