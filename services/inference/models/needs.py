"""What a version will take, counted from its files before anything of it is loaded.

A language model's architecture is in its files, so that its weights and slots can be counted; for
other models the weights' files are what is loaded. What an engine needs beside them for a while
(a graph's intermediate results) is not counted; that is what the part of the machine's memory is
for that the budget leaves.
"""

from __future__ import annotations

from pathlib import Path

from mesh.deployment import VersionSpec
from mesh.memory_estimate import estimate_bytes
from mesh.model_options import GenerationOptions
from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.description import describe

_FULL_BYTES = 4
_INT8_BYTES = 1 + (4 + 1) / 32
"""A code, and its part of a block's scale and zero point."""


def count_bytes(folder: Path, spec: VersionSpec, cache_dir: Path) -> int:
    """What the version in `folder` will take; reads the files' headers, and blocks."""
    options = spec.manifest.generation
    if options is None:
        return estimate_bytes(spec)
    name = spec.manifest.name
    described = describe(folder, model=name, digest=spec.digest, cache_dir=cache_dir)
    return decoder_bytes(described.config, options)


def decoder_bytes(config: LlamaConfig, options: GenerationOptions) -> int:
    """Weights and slots of a decoder."""
    each = _FULL_BYTES if options.weights == "fp32" else _INT8_BYTES
    positions = options.slots * min(options.max_context_tokens, config.trained_context_tokens)
    return int(weight_count(config) * each) + positions * config.kv_bytes_per_token


def weight_count(config: LlamaConfig) -> int:
    """The weights of a decoder's matrices, which are nearly all of them."""
    width = config.hidden
    attention = width * config.head_dim * (2 * config.heads + 2 * config.kv_heads)
    layer = attention + 3 * width * config.intermediate
    tables = 1 if config.tied_embeddings else 2
    return config.layers * layer + tables * config.vocabulary * width
