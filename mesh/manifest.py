"""What a model's artefact says about itself: its name, its task, its format and how to run it.

The manifest is written once, by whoever publishes a version, and is part of the version's digest:
defaults are filled in when it is read, so that a version goes on meaning what it meant after a
default has changed. It knows nothing of traffic, nodes or hardware; those belong to the deployment.
docs/manifest.md is the reference for people who write one.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from mesh.batching_options import BatchingOptions
from mesh.document_refusal import make_refusal
from mesh.model_options import ClassificationOptions, EmbeddingOptions, GenerationOptions
from mesh.reference import check_name
from mesh.warm_up_options import WarmUpRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "TASKS_OF_FORMAT",
    "Backend",
    "BatchingOptions",
    "ClassificationOptions",
    "EmbeddingOptions",
    "Format",
    "GenerationOptions",
    "Manifest",
    "Precision",
    "Task",
    "WarmUpRequest",
]

Task = Literal["text-generation", "text-embedding", "text-classification", "tensor"]
Format = Literal["gguf", "transformers", "sentence-transformers", "onnx", "identity"]
Backend = Literal["auto", "onnxruntime", "torch", "tensorrt", "openvino"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

TASKS_OF_FORMAT: Final[Mapping[Format, tuple[Task, ...]]] = MappingProxyType(
    {
        "gguf": ("text-generation",),
        "transformers": ("text-generation", "text-embedding", "text-classification"),
        "sentence-transformers": ("text-embedding",),
        "onnx": ("tensor",),
        "identity": ("tensor",),
    }
)
"""What models of a format can be asked: the allowed pairs, all of them."""

_ROWS: Final = ("text-embedding", "text-classification")
_FILLED: Final[Mapping[str, tuple[Task, ...]]] = MappingProxyType(
    {
        "generation": ("text-generation",),
        "embedding": ("text-embedding",),
        "classification": ("text-classification",),
        "batching": _ROWS,
    }
)
"""The sections that every model of these tasks has, written or not."""

_APPLICABLE: Final[Mapping[str, tuple[Task, ...]]] = MappingProxyType(
    {
        **_FILLED,
        "batching": (*_ROWS, "tensor"),
        "instances": (*_ROWS, "tensor"),
        "warm_up": (*_ROWS, "tensor"),
        "labels": ("text-classification", "tensor"),
    }
)
_WISHES: Final = ("backend", "precision", "instances")
_NOT_FOR_IDENTITY: Final = ("batching", "instances", "backend", "precision", "warm_up", "labels")


class Manifest(BaseModel):
    """The part of a model version that a person writes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    name: Annotated[str, AfterValidator(check_name)]
    task: Task
    format: Format
    backend: Backend = "auto"
    precision: Precision = "auto"
    instances: Annotated[int, Field(ge=1, le=16)] = 1
    """How many requests or batches are computed at once."""
    generation: GenerationOptions | None = None
    embedding: EmbeddingOptions | None = None
    classification: ClassificationOptions | None = None
    batching: BatchingOptions | None = None
    # Not strict: JSON knows no tuples.
    warm_up: Annotated[tuple[WarmUpRequest, ...], Field(strict=False)] | None = None
    labels: dict[str, Annotated[tuple[str, ...], Field(strict=False)]] | None = None
    """The names of an output's places in its last axis, by output."""

    @model_validator(mode="before")
    @classmethod
    def _fill_options(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = _with_moved_options(data)
        task = data.get("task")
        lacking = (
            section
            for section, tasks in _FILLED.items()
            if task in tasks and data.get(section) is None
        )
        return {**data, **{section: {} for section in lacking}}

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        tasks = TASKS_OF_FORMAT[self.format]
        if self.task not in tasks:
            known = " or ".join(tasks)
            raise ValueError(f"format {self.format} serves task {known}, not {self.task}")
        for key, allowed in _APPLICABLE.items():
            if self.task not in allowed and self._is_set(key):
                raise ValueError(f"{key} does not apply to task {self.task}")
        if self.batching is not None and self.batching.ragged and self.format != "onnx":
            raise ValueError(f"batching.ragged does not apply to format {self.format}")
        for key in _NOT_FOR_IDENTITY if self.format == "identity" else ():
            if self._is_set(key):
                raise ValueError(f"{key} does not apply to format identity")
        return self

    def _is_set(self, key: str) -> bool:
        return bool(getattr(self, key) != type(self).model_fields[key].default)

    @model_serializer(mode="wrap")
    def _without_plain_wishes(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what is not wished for: digests from before one could wish stay the same."""
        written: dict[str, Any] = write(self)
        plain = {key for key in _WISHES if not self._is_set(key)}
        return {key: value for key, value in written.items() if key not in plain}

    def to_json(self) -> bytes:
        """The manifest with the defaults of its sections spelt out."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_json(cls, text: str | bytes, *, field: str = "manifest") -> Self:
        """Reads a manifest; raises `InvalidArgument` on the part that is wrong."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise make_refusal(error, cls, field) from error


def _with_moved_options(data: dict[str, Any]) -> dict[str, Any]:
    """Versions that were registered when batching was part of `embedding` are still read."""
    embedding = data.get("embedding")
    if not isinstance(embedding, dict) or "batching" in data:
        return data
    moved = {key for key in ("max_batch_size", "max_queue_delay_ms") if key in embedding}
    if not moved:
        return data
    kept = {key: value for key, value in embedding.items() if key not in moved}
    return {**data, "embedding": kept, "batching": {key: embedding[key] for key in moved}}
