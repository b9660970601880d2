"""What a tensor model is to the node: named inputs in, named outputs out.

A kind of model is a file whose `open_...` returns a `TensorModel`. Requests have been checked
against `inputs` before they get here, so a model sees only tensors that it asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from mesh.batching_options import BatchingOptions
from mesh.tensor import Tensor
from services.inference.batching.terms import Terms
from services.inference.models.loaded_model import LoadedModel
from services.inference.models.timing import Timing


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that a model takes or gives; -1 stands for any length of an axis.

    `labels` name the places of its last axis, where they have names.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives; with `is_open`, any tensors, each given back by its name.

    With `is_decoupled`, a request on a stream has any number of responses.
    """

    platform: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    is_open: bool = False
    is_decoupled: bool = False
    batching: BatchingOptions | None = None
    """How rows of different callers are run together, where they are: then the first axis of every
    input and output is theirs."""
    instances: int = 1
    """How many requests or batches are computed at once."""


@dataclass(frozen=True, slots=True)
class TensorAnswer:
    """The outputs, and what there is to say of them."""

    outputs: tuple[Tensor, ...]
    timing: Timing
    counts: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


@runtime_checkable
class TensorModel(LoadedModel, Protocol):
    """A loaded version that maps tensors to tensors."""

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""

    async def infer(self, inputs: tuple[Tensor, ...], terms: Terms) -> TensorAnswer:
        """Answers; cancelling takes it out of the queue.

        Raises:
            InvalidArgument: an input's values are wrong, or there is no such priority level.
            QueueFull: too much is waiting already.
            DeadlineTooShort, DeadlineExceeded: the answer would come, or came, too late.
        """
