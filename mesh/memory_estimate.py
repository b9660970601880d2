"""How much memory a model version will take on a node, told from its manifest and its files alone.

An estimate for those who place versions and have not opened them. Weights follow from the files'
sizes, and lie in memory as often as the backend that the manifest names has to have them. The keys
and values of a language model's slots follow from its architecture, which neither manifest nor
sizes tell; but they grow roughly with the root of the number of weights, and four times that root
is on the safe side for models whose heads share keys (measured from 135 million to 8 billion
weights: 1 to 4 times what it is). A node that has the files counts instead of guessing.
"""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mesh.deployment import VersionSpec
    from mesh.manifest import Format
    from mesh.model_options import GenerationOptions

_WEIGHT_SUFFIX: Final[Mapping[Format, str]] = MappingProxyType(
    {"gguf": ".gguf", "transformers": ".safetensors", "sentence-transformers": ".safetensors"}
)
"""What the files are called that hold weights. An ONNX graph's may be called anything."""
_COPIED_BY: Final = frozenset(("openvino", "tensorrt"))
"""Backends of which each instance has the weights for itself."""
_STORED_BYTES: Final[Mapping[Format, float]] = MappingProxyType({"gguf": 0.56, "transformers": 2.0})
"""Of a weight in the file: GGUF has mostly four bits and a half, folders mostly sixteen."""
_FULL_BYTES: Final = 4.0
_BYTES_OF: Final[Mapping[str, float]] = MappingProxyType({"fp32": _FULL_BYTES})
_NO_SMALLER_FORM: Final = "torch"
"""This backend keeps weights in float32, or on a GPU in half of that, whatever is asked for."""
_INT8_BYTES: Final = 1.3
"""A code, its part of a block's scale and zero point, and of a table to look tokens up in."""
_POSITION_BYTES_PER_ROOT: Final = 4.0


def estimate_bytes(spec: VersionSpec) -> int:
    """The memory of a version, in the end of the range in which it probably lies."""
    manifest, options = spec.manifest, spec.manifest.generation
    stored = weight_bytes(spec)
    if options is None:
        return stored * copies(manifest.backend, manifest.instances)
    count = stored / _STORED_BYTES.get(manifest.format, _FULL_BYTES)
    weights = "fp32" if manifest.backend == _NO_SMALLER_FORM else options.weights
    return math.ceil(count * _BYTES_OF.get(weights, _INT8_BYTES) + _slots(count, options))


def weight_bytes(spec: VersionSpec) -> int:
    """The size of the files that hold weights; of all, where their names do not tell."""
    suffix = _WEIGHT_SUFFIX.get(spec.manifest.format)
    return sum(
        file.size_bytes for file in spec.files if suffix in (None, PurePosixPath(file.path).suffix)
    )


def copies(backend: str, instances: int) -> int:
    """How often the weights lie in memory for so many instances on this backend."""
    return instances if backend in _COPIED_BY else 1


def _slots(weights: float, options: GenerationOptions) -> float:
    positions = options.slots * options.max_context_tokens
    return positions * math.sqrt(weights) * _POSITION_BYTES_PER_ROOT
