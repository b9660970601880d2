"""How requests of different callers are run together: what a manifest says about it.

Names and meanings are those of Triton's dynamic batcher, with times in milliseconds and queues in
rows. It knows neither clocks nor queues: `services/inference/batching` keeps to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mesh.ragged_options import RaggedAxisOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PRIORITY_LEVELS = 64
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class QueuePolicy(BaseModel):
    """Who may wait at a level, and for how long."""

    model_config = _STRICT

    max_queue_rows: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Rows that may wait at this level; 0: as many as the node lets wait for the whole model."""
    default_timeout_ms: Annotated[float, Field(ge=0, le=86_400_000, allow_inf_nan=False)] = 0.0
    """How long a request waits before `timeout_action`; 0: for as long as its deadline allows."""
    allow_timeout_override: bool = True
    """Whether a request's own `timeout` counts. It may shorten the default, never extend it."""
    timeout_action: Literal["REJECT", "DELAY"] = "REJECT"
    """REJECT fails the request; DELAY lets it run once nothing that is in time waits there."""

    def timeout_s(self, requested_s: float | None) -> float | None:
        """After how long the action is taken on a request that asks for so much; None: never."""
        default_s = self.default_timeout_ms / 1000 or None
        if requested_s is None or not self.allow_timeout_override:
            return default_s
        return requested_s if default_s is None else min(requested_s, default_s)


class BatchingOptions(BaseModel):
    """How a model's queue forms batches."""

    model_config = _STRICT

    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    max_queue_delay_ms: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 0.0
    """How long the oldest row waits for others while an instance is free. With 0, as in Triton, it
    runs at once, and what comes meanwhile runs together next."""
    exact: bool = True
    """Whether rows run together only where that changes no bit of their answers. Graphs of format
    `onnx` are tried out when they are loaded; others are made to be exact."""
    # Not strict: JSON knows neither tuples nor keys that are numbers.
    preferred_batch_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)
    ] = ()
    """Sizes at which a batch need not wait for more."""
    ragged: Annotated[tuple[RaggedAxisOptions, ...], Field(strict=False)] = ()
    """Axes along which rows are padded, so that those of different lengths run together."""
    priority_levels: Annotated[int, Field(ge=0, le=MAX_PRIORITY_LEVELS)] = 0
    """Levels 1 to this, 1 the highest; 0: every request is alike."""
    default_priority_level: Annotated[int, Field(ge=0, le=MAX_PRIORITY_LEVELS)] = 0
    """The level of a request that names none."""
    default_queue_policy: QueuePolicy = QueuePolicy()
    priority_queue_policy: dict[Annotated[int, Field(strict=False)], QueuePolicy] = {}
    """The policy of each level that has its own."""

    @property
    def levels(self) -> range:
        """The levels that there are; 0 alone stands for no levels."""
        return range(1, self.priority_levels + 1) if self.priority_levels else range(1)

    @property
    def policies(self) -> Mapping[int, QueuePolicy]:
        """The policy of every level."""
        own = self.priority_queue_policy
        return {level: own.get(level, self.default_queue_policy) for level in self.levels}

    @model_validator(mode="after")
    def _sizes_ascend(self) -> Self:
        sizes = self.preferred_batch_sizes
        if list(sizes) != sorted(set(sizes)):
            raise ValueError("preferred_batch_sizes must ascend")
        if sizes and sizes[-1] > self.max_batch_size:
            raise ValueError("preferred_batch_sizes must not exceed max_batch_size")
        return self

    @model_validator(mode="after")
    def _levels_exist(self) -> Self:
        if self.default_priority_level not in self.levels:
            known = f"1 to {self.priority_levels}" if self.priority_levels else "0, without levels"
            raise ValueError(f"default_priority_level must be {known}")
        unknown = sorted(set(self.priority_queue_policy) - set(range(1, self.priority_levels + 1)))
        if unknown:
            raise ValueError(f"priority_queue_policy names level {unknown[0]}, which is not one")
        return self
