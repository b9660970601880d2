"""What a version will take, counted from its files before anything of it is loaded.

A language model's architecture is in its files, so that its weights and slots can be counted, as
the backend keeps them that it will probably open on. An encoder's weights are counted one by one,
for files may hold them in half of what they become; an ONNX graph's files are what is loaded. Both
lie in memory once for each instance, where the backend cannot share them. What an engine needs
beside them for a while (a graph's intermediate results) is not counted; that is what the part of
the machine's memory is for that the budget leaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mesh.deployment import VersionSpec
from mesh.errors import FailedPrecondition
from mesh.manifest import Manifest
from mesh.memory_estimate import copies, weight_bytes
from mesh.model_options import GenerationOptions
from services.inference.backends.backend import Backend
from services.inference.backends.choice import choose, offer
from services.inference.backends.kept_weights import KeptWeights, expected_weights
from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.description import describe

_FULL_BYTES = 4


def count_bytes(
    folder: Path, spec: VersionSpec, cache_dir: Path, backends: Sequence[Backend]
) -> int:
    """What the version in `folder` will take; reads the files' headers, and blocks."""
    manifest, options = spec.manifest, spec.manifest.generation
    if manifest.task == "tensor":
        return weight_bytes(spec) * _copies(manifest, backends)
    wanted = "fp32" if options is None else options.weights
    kept = expected_weights(backends, manifest.backend, wanted, manifest.precision)
    if kept is None:  # opening has the reason; it is not this that should fail
        return 0
    if options is None:
        weights = math.ceil(element_count(folder) * kept.weight_bytes)
        return weights * _copies(manifest, backends)
    described = describe(folder, model=manifest.name, digest=spec.digest, cache_dir=cache_dir)
    return decoder_bytes(described.config, options, kept)


def _copies(manifest: Manifest, backends: Sequence[Backend]) -> int:
    """How often the weights will lie in memory, on the backend that is asked first."""
    order = choose(manifest.backend, [offer(backend) for backend in backends]).order
    return max((copies(name, manifest.instances) for name in order[:1]), default=0)


def element_count(folder: Path) -> int:
    """How many numbers an encoder's files hold, by their headers.

    Raises:
        FailedPrecondition: one cannot be read.
    """
    return sum(map(_elements, sorted(folder.glob("*.safetensors"))))


def _elements(file: Path) -> int:
    try:
        with safe_open(file, framework="numpy") as opened:
            names = opened.keys()
            return sum(math.prod(opened.get_slice(name).get_shape()) for name in names)
    except SafetensorError as error:
        raise FailedPrecondition(f"{file.name} cannot be read: {error}") from error


def decoder_bytes(config: LlamaConfig, options: GenerationOptions, kept: KeptWeights) -> int:
    """Weights and slots of a decoder that a backend keeps like this."""
    context_tokens = min(options.max_context_tokens, config.trained_context_tokens)
    positions = options.slots * kept.positions(context_tokens)
    slots = positions * config.kv_bytes_per_token * kept.cache_element_bytes // _FULL_BYTES
    return int(weight_count(config) * kept.weight_bytes + _table_bytes(config, kept)) + slots


def _table_bytes(config: LlamaConfig, kept: KeptWeights) -> float:
    """What a table of its own adds to matrices that count the tokens' vectors once or twice."""
    if not kept.table_bytes:
        return 0
    counted = 0 if config.tied_embeddings else kept.weight_bytes
    return config.vocabulary * config.hidden * (kept.table_bytes - counted)


def weight_count(config: LlamaConfig) -> int:
    """The weights of a decoder's matrices, which are nearly all of them."""
    width = config.hidden
    attention = width * config.head_dim * (2 * config.heads + 2 * config.kv_heads)
    layer = attention + 3 * width * config.intermediate
    tables = 1 if config.tied_embeddings else 2
    return config.layers * layer + tables * config.vocabulary * width
