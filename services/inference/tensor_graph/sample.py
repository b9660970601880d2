"""Inputs made up for a graph, to try it out before anybody asks it: pure.

Axes of any length get the same one, so that those which must agree do. Which length a graph can
take is not written in it, so several are tried, but for those that would make an input huge.
Declared warm-up requests know better, and count first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mesh.manifest import WarmUpRequest
from mesh.tensor import Array
from services.inference.backends.backend import GraphTensor
from services.inference.batching.ragged import Tensors
from services.inference.models.warm_up import fill_array
from services.inference.tensor_graph.texts import as_texts

LENGTHS = (8, 64, 256)
"""Of axes whose length is free: tokens, or the sides of an image."""
MOST_ELEMENTS = 1 << 24
"""Of an input whose lengths were guessed: four free axes of 256 would make 4 Gi of them."""


def make_samples(
    inputs: Sequence[GraphTensor], declared: Sequence[WarmUpRequest], rows: int | None
) -> Iterator[Tensors]:
    """Inputs to try in turn; with `rows`, each input has so many different ones."""
    for request in declared:
        shapes = {name: tensor.shape for name, tensor in request.inputs.items()}
        if all(each.name in shapes for each in inputs):
            yield {each.name: _fill(each, shapes[each.name], rows) for each in inputs}
    is_free = any(-1 in tensor.shape[_first(rows) :] for tensor in inputs)
    for length in LENGTHS if is_free else (1,):
        guessed = {each.name: [length if n == -1 else n for n in each.shape] for each in inputs}
        if is_free and any(_is_huge(shape, rows) for shape in guessed.values()):
            continue
        yield {each.name: _fill(each, guessed[each.name], rows) for each in inputs}


def _is_huge(shape: Sequence[int], rows: int | None) -> bool:
    return math.prod(_full(shape, rows)) > MOST_ELEMENTS


def _fill(tensor: GraphTensor, shape: Sequence[int], rows: int | None) -> Array:
    array = fill_array("random", tensor.datatype, _full(shape, rows), tensor.name)
    return as_texts(array) if tensor.datatype == "BYTES" else array


def _full(shape: Sequence[int], rows: int | None) -> tuple[int, ...]:
    return tuple(shape) if rows is None else (rows, *shape[1:])


def _first(rows: int | None) -> int:
    return 0 if rows is None else 1
