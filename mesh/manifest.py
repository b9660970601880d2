"""What a model's artefact says about itself: its name, its task, its format and how to run it.

The manifest is written once, by whoever publishes a version, and is part of the version's digest:
defaults are filled in when it is read, so that a version goes on meaning what it meant after a
default has changed. It knows nothing of traffic, nodes or hardware; those belong to the deployment.
docs/manifest.md is the reference for people who write one.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mesh.errors import InvalidArgument
from mesh.reference import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Mapping

Task = Literal["text-generation", "text-embedding", "tensor"]
Format = Literal["gguf", "sentence-transformers", "identity"]

TASK_OF_FORMAT: Mapping[Format, Task] = {
    "gguf": "text-generation",
    "sentence-transformers": "text-embedding",
    "identity": "tensor",
}


class GenerationOptions(BaseModel):
    """How a language model is scheduled on a node."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    slots: Annotated[int, Field(ge=1, le=256)] = 8
    max_context_tokens: Annotated[int, Field(ge=16, le=1_048_576)] = 2048
    prefill_chunk_tokens: Annotated[int, Field(ge=1, le=65_536)] = 128
    weights: Literal["int8", "fp32"] = "int8"
    max_queue: Annotated[int, Field(ge=1, le=100_000)] = 64

    @model_validator(mode="after")
    def _chunk_fits_context(self) -> Self:
        if self.prefill_chunk_tokens > self.max_context_tokens:
            raise ValueError("prefill_chunk_tokens must not exceed max_context_tokens")
        return self


class EmbeddingOptions(BaseModel):
    """How an embedding model is batched on a node."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_tokens: Annotated[int, Field(ge=1, le=65_536)] = 256
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    max_queue_delay_ms: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 2.0


class Manifest(BaseModel):
    """The part of a model version that a person writes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    task: Task
    format: Format
    generation: GenerationOptions | None = None
    embedding: EmbeddingOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_options(cls, data: Any) -> Any:
        options = {"text-generation": "generation", "text-embedding": "embedding"}
        if not isinstance(data, dict):
            return data
        task = data.get("task")
        section = options.get(task) if isinstance(task, str) else None
        if section is None or data.get(section) is not None:
            return data
        return {**data, section: {}}

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if TASK_OF_FORMAT[self.format] != self.task:
            raise ValueError(
                f"format {self.format} serves task {TASK_OF_FORMAT[self.format]}, not {self.task}"
            )
        if self.generation is not None and self.task != "text-generation":
            raise ValueError(f"generation does not apply to task {self.task}")
        if self.embedding is not None and self.task != "text-embedding":
            raise ValueError(f"embedding does not apply to task {self.task}")
        return self

    def to_json(self) -> bytes:
        """The manifest with every default spelt out."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_json(cls, text: str | bytes, *, field: str = "manifest") -> Self:
        """Reads a manifest; raises `InvalidArgument` on the part that is wrong."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise _refusal(error, field) from error


_SECTIONS: Mapping[tuple[str, ...], type[BaseModel]] = {
    (): Manifest,
    ("generation",): GenerationOptions,
    ("embedding",): EmbeddingOptions,
}


def _refusal(error: ValidationError, field: str) -> InvalidArgument:
    """The first thing wrong, in words that say what to write instead."""
    first = error.errors(include_url=False)[0]
    place = tuple(str(part) for part in first["loc"])
    path = ".".join((field, *place))
    if first["type"] == "extra_forbidden":
        return InvalidArgument(f"{path}: {_unknown_key(place)}", field=path)
    return InvalidArgument(f"{path}: {first['msg'].removeprefix('Value error, ')}", field=path)


def _unknown_key(place: tuple[str, ...]) -> str:
    *section, key = place
    known = sorted(_SECTIONS[tuple(section)].model_fields)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"unknown key {key!r}; {hint}"
