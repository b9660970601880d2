"""A graph is tried out before anybody asks it: it is warm then, and known to keep its word.

Inputs are made up from its signature. That they fail proves nothing where axes of any length had to
be guessed, or where the graph refuses values; such a graph serves, and is not batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from mesh.errors import FailedPrecondition, InvalidArgument, RingmeshError
from mesh.logs import get_logger
from mesh.manifest import WarmUpRequest
from services.inference.batching.ragged import Tensors
from services.inference.batching.stack import cut, split
from services.inference.tensor_graph.company import MOST_ROWS, Company, find_company
from services.inference.tensor_graph.loaded_graph import LoadedGraph
from services.inference.tensor_graph.sample import make_samples

_log = get_logger(__name__)

_ALONE = "requests run one by one: in this graph, rows of others change an answer"
_UNTRIED = "requests run one by one: declare a warm_up to try batches with"


@dataclass(frozen=True, slots=True)
class Tried:
    """The graph as it will be run, and a sentence if that is not what its manifest asks for.

    `sample` are inputs that it takes, if any were found.
    """

    graph: LoadedGraph
    sample: Tensors | None
    remark: str = ""


def try_out(graph: LoadedGraph, declared: Sequence[WarmUpRequest]) -> Tried:
    """Runs the graph on every instance, and finds out how it may be batched.

    Raises:
        FailedPrecondition: it fails where its inputs leave nothing to guess, or an output of it has
            no axis of rows where it should.
    """
    batching = graph.signature.batching
    if batching is None:
        return Tried(graph, _first_that_runs(graph, declared, None))
    count = min(batching.max_batch_size, MOST_ROWS)
    sample = _first_that_runs(graph, declared, max(count, 2))
    if not batching.exact:
        return Tried(replace(graph, company=Company.ANY), sample)
    if sample is None:
        return Tried(replace(graph, company=Company.NONE), sample, _UNTRIED)
    rows = [item.payload for item in islice(cut(sample), count)]
    company = find_company(graph.try_rows, rows, batching.max_batch_size)
    _log.info("batches tried", graph=repr(graph), rows=len(rows), company=company.name)
    remark = _ALONE if company is Company.NONE else ""
    return Tried(replace(graph, company=company), sample, remark)


def _first_that_runs(
    graph: LoadedGraph, declared: Sequence[WarmUpRequest], rows: int | None
) -> Tensors | None:
    """The inputs that the graph takes; each of its instances has run then."""
    error: RingmeshError | None = None
    for tensors in make_samples(graph.instances.inputs, declared, rows):
        try:
            _run(graph, tensors, is_batch=rows is not None)
        except FailedPrecondition:
            raise  # its outputs are not what batching needs, whatever the inputs
        except InvalidArgument as refused:
            error = refused
        except RingmeshError as failed:
            if _is_fixed(graph, rows):
                raise FailedPrecondition(f"fails on made-up inputs: {failed.message}") from failed
            error = failed
        else:
            return tensors
    _log.info("no inputs could be made up", graph=repr(graph), error=error and error.message)
    return None


def _run(graph: LoadedGraph, tensors: Tensors, *, is_batch: bool) -> None:
    for runner in graph.instances.runners:
        if is_batch:
            pair = [item.payload for item in islice(cut(tensors), 2)]
            batch = {name: array[:2] for name, array in tensors.items()}
            split(graph.compute(runner, batch), pair)
        else:
            graph.compute(runner, tensors)


def _is_fixed(graph: LoadedGraph, rows: int | None) -> bool:
    first = 0 if rows is None else 1
    return all(-1 not in tensor.shape[first:] for tensor in graph.instances.inputs)
