"""Any graph of named tensors as a model: inputs and outputs are the graph's own.

With `batching` each row of a request waits for company by itself, and finds it among rows of equal
shapes; a request of more rows than a batch holds is spread over several. Without it each request
runs as it is. Either way the manifest's `instances` run at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Protocol

import numpy as np

from mesh.deployment import VersionSpec
from mesh.tensor import Tensor, encode_raw
from mesh.tensor.raw import find_datatype
from services.inference.backends.backend import GraphTensor
from services.inference.batching.batcher import Batcher
from services.inference.batching.ragged import Tensors
from services.inference.batching.run import Item
from services.inference.batching.stack import TensorRow, count_rows, cut, join
from services.inference.batching.terms import OWN, Terms
from services.inference.models.tensor_model import TensorAnswer
from services.inference.models.timing import Timing
from services.inference.models.warm_up import answer_declared
from services.inference.tensor_graph.loaded_graph import LoadedGraph
from services.inference.tensor_graph.texts import as_bytes, read_array

Answer = tuple[Tensors, Timing]
Shapes = Mapping[str, Sequence[int]]


class Answerer(Protocol):
    """How requests get to the graph."""

    def check_size(self, shapes: Shapes, terms: Terms) -> None:
        """Refuses inputs of these shapes if they are more than could ever wait."""

    async def answer(self, tensors: Tensors, terms: Terms) -> Answer:
        """The outputs for these inputs."""

    async def broken(self, probe: Callable[[], Awaitable[object]]) -> str:
        """Returns when run after run has failed, and `probe` too; says why."""


class RowAnswerer:
    """Every row waits for company by itself."""

    def __init__(self, batcher: Batcher[TensorRow, Tensors], graph: LoadedGraph) -> None:
        self._batcher = batcher
        self._graph = graph

    def check_size(self, shapes: Shapes, terms: Terms) -> None:
        """Refuses more rows than could ever wait, before they are made."""
        self._batcher.check_size(count_rows(shapes), terms)

    async def answer(self, tensors: Tensors, terms: Terms) -> Answer:
        """What the rows get, put together again."""
        batched = await self._batcher.submit(cut(tensors, self._graph.ragged), terms)
        if batched.results:
            return join(batched.results), batched.timing
        ends = self._graph.instances
        return make_empty(ends.inputs, ends.outputs, tensors), batched.timing

    async def broken(self, probe: Callable[[], Awaitable[object]]) -> str:
        """Returns when run after run has failed, and `probe` too; says why."""
        return await self._batcher.broken(probe)


class RequestAnswerer:
    """Every request runs by itself."""

    def __init__(self, batcher: Batcher[Tensors, Tensors]) -> None:
        self._batcher = batcher

    def check_size(self, shapes: Shapes, terms: Terms) -> None:
        """Refuses nothing: a request is one, whatever its shapes."""

    async def answer(self, tensors: Tensors, terms: Terms) -> Answer:
        """What the graph gives for it."""
        batched = await self._batcher.submit([Item(tensors, None)], terms)
        return batched.results[0], batched.timing

    async def broken(self, probe: Callable[[], Awaitable[object]]) -> str:
        """Returns when run after run has failed, and `probe` too; says why."""
        return await self._batcher.broken(probe)


class GraphModel:
    """One version of such a model.

    `sample` are inputs that the graph takes; where none could be made up, the first that it took.
    """

    def __init__(
        self,
        spec: VersionSpec,
        graph: LoadedGraph,
        answerer: Answerer,
        sample: Tensors | None,
        remark: str,
        *,
        lifetime: AsyncExitStack,
    ) -> None:
        self.name = spec.manifest.name
        self.version = spec.version
        self.backend = graph.opening.backend
        self.device = graph.opening.device
        self.pending = graph.opening.pending
        self.remark = remark
        self.memory_bytes = graph.instances.memory_bytes
        self.signature = graph.signature
        self._manifest = spec.manifest
        self._company = graph.company
        self._answerer = answerer
        self._sample = sample
        self._lifetime = lifetime

    def __repr__(self) -> str:
        return f"<GraphModel {self.name}@{self.version} company={self._company}>"

    async def infer(self, inputs: tuple[Tensor, ...], terms: Terms) -> TensorAnswer:
        """The graph's outputs."""
        self._answerer.check_size({tensor.name: tensor.shape for tensor in inputs}, terms)
        tensors = {tensor.name: read_array(tensor) for tensor in inputs}
        outputs, timing = await self._answerer.answer(tensors, terms)
        # A broken engine may still answer inputs that hold nothing: they prove nothing of it.
        if self._sample is None and all(array.size for array in tensors.values()):
            self._sample = tensors
        specs = self.signature.outputs
        return TensorAnswer(
            outputs=tuple(_write(spec.name, spec.datatype, outputs) for spec in specs),
            timing=timing,
        )

    async def warm_up(self) -> None:
        """The declared requests; the graph has been tried when it was opened."""
        await answer_declared(self, self._manifest.warm_up)

    async def broken(self) -> str:
        """Returns when the engine can do no more, and says why."""
        return await self._answerer.broken(self._probe)

    async def _probe(self) -> None:
        """Asks for what it could do; where it never did anything, failures say nothing of it."""
        if self._sample is not None:
            await self._answerer.answer(self._sample, OWN)

    async def close(self) -> None:
        """Ends the queue, then the engine."""
        await self._lifetime.aclose()


def make_empty(
    inputs: Iterable[GraphTensor], outputs: Iterable[GraphTensor], tensors: Tensors
) -> Tensors:
    """The outputs for no rows at all; an axis of unknown length is as long as one of its name."""
    lengths = {
        axis: length
        for tensor in inputs
        for axis, length in zip(tensor.axes, tensors[tensor.name].shape, strict=False)
        if axis
    }
    return {
        output.name: np.empty((0, *_lengths(output, lengths)[1:]), _dtype(output))
        for output in outputs
    }


def _lengths(tensor: GraphTensor, known: dict[str, int]) -> list[int]:
    names = tensor.axes or ("",) * len(tensor.shape)
    return [
        known.get(name, 0) if length == -1 else length
        for name, length in zip(names, tensor.shape, strict=True)
    ]


def _dtype(tensor: GraphTensor) -> np.dtype:
    return find_datatype(tensor.datatype, field=tensor.name).dtype


def _write(name: str, datatype: str, outputs: Tensors) -> Tensor:
    array = outputs[name]
    raw = encode_raw(as_bytes(array) if datatype == "BYTES" else array, datatype)
    return Tensor(name, datatype, array.shape, raw)
