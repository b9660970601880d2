"""The sections of a manifest that belong to one task each: how such a model runs on a node."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class GenerationOptions(BaseModel):
    """How a language model is scheduled on a node."""

    model_config = _STRICT

    slots: Annotated[int, Field(ge=1, le=256)] = 8
    max_context_tokens: Annotated[int, Field(ge=16, le=1_048_576)] = 2048
    prefill_chunk_tokens: Annotated[int, Field(ge=1, le=65_536)] = 128
    weights: Literal["int8", "int8-blocks", "int4", "fp32"] = "int8"
    max_queue: Annotated[int, Field(ge=1, le=100_000)] = 64

    @model_validator(mode="after")
    def _chunk_fits_context(self) -> Self:
        if self.prefill_chunk_tokens > self.max_context_tokens:
            raise ValueError("prefill_chunk_tokens must not exceed max_context_tokens")
        return self


class EmbeddingOptions(BaseModel):
    """How an embedding model reads its texts."""

    model_config = _STRICT

    max_tokens: Annotated[int, Field(ge=1, le=65_536)] = 256


class ClassificationOptions(BaseModel):
    """How a text classifier reads its texts."""

    model_config = _STRICT

    max_tokens: Annotated[int, Field(ge=1, le=65_536)] = 512
