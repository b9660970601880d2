"""A graph that is loaded, and how it is run: whole requests, or rows in batches; blocking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from services.inference.backends.backend import BackendFailed, GraphRunner
from services.inference.backends.choice import Opening
from services.inference.backends.instance_group import InstanceGroup
from services.inference.batching.ragged import RaggedAxis, Tensors
from services.inference.batching.run import Ran, Run
from services.inference.batching.stack import TensorRow, stacked
from services.inference.models.tensor_model import Signature
from services.inference.tensor_graph.company import Company, fill_up
from services.inference.tensor_graph.fault import explain


@dataclass(frozen=True, slots=True)
class LoadedGraph:
    """The instances of a graph; `company` is None where each request runs as it is."""

    instances: InstanceGroup
    opening: Opening
    signature: Signature
    ragged: tuple[RaggedAxis, ...] = ()
    company: Company | None = None

    def __repr__(self) -> str:
        names = ", ".join(tensor.name for tensor in self.instances.outputs)
        return f"<LoadedGraph {names} on {self.opening.backend}>"

    @property
    def row_runs(self) -> list[Run[TensorRow, Tensors]]:
        """For the batcher: rows of one batch in, their part of the outputs out."""
        computing = (partial(self._compute_batch, runner) for runner in self.instances.runners)
        return [stacked(compute, self.ragged) for compute in computing]

    @property
    def request_runs(self) -> list[Run[Tensors, Tensors]]:
        """For the batcher: whole requests, one after the other."""
        return [partial(self._compute_each, runner) for runner in self.instances.runners]

    def compute(self, runner: GraphRunner, tensors: Tensors) -> Tensors:
        """Every output for these inputs.

        Raises:
            InvalidArgument: the inputs are at fault.
            BackendFailed: something else is.
        """
        names = [output.name for output in self.instances.outputs]
        try:
            found = runner.run(names, tensors)
        except BackendFailed as error:
            raise explain(error, self.instances.inputs, tensors) from error
        return dict(zip(names, found, strict=True))

    def try_rows(self, tensors: Tensors) -> Tensors:
        """A trial on the first instance."""
        return self.compute(self.instances.runners[0], tensors)

    def _compute_batch(self, runner: GraphRunner, batch: Tensors) -> Tensors:
        """Fills the batch up as its company asks for; the outputs have the rows of `batch`."""
        batching, company = self.signature.batching, self.company or Company.ANY
        count = len(next(iter(batch.values())))
        size = company.batch_size(count, batching.max_batch_size if batching else count)
        outputs = self.compute(runner, fill_up(batch, size))
        if size == count:
            return outputs
        return {name: array[:count] for name, array in outputs.items()}

    def _compute_each(
        self, runner: GraphRunner, requests: Sequence[Tensors], _key: object
    ) -> Ran[Tensors]:
        return Ran([self.compute(runner, tensors) for tensors in requests])
