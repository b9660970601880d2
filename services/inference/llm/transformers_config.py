"""What config.json says about a decoder that transformers saved; what is not run here is refused.

Everything that would change an answer and is not known here has its refusal by name: another
architecture, another activation, stretched rotations of another kind, biases, quantised weights. A
folder that is read is one whose answers are those of the reference.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mesh.errors import FailedPrecondition
from services.inference.llm.architecture import LlamaConfig

CONFIG = "config.json"

_HAS_QKV_BIAS: Final[Mapping[str, bool]] = MappingProxyType(
    {"LlamaForCausalLM": False, "MistralForCausalLM": False, "Qwen2ForCausalLM": True}
)
"""The architectures that run here, and whether queries, keys and values have a bias."""

_MUST_BE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "quantization_config": None,
        "partial_rotary_factor": 1.0,
    }
)
"""Keys of which only one value is supported, which is also their default."""

_DEFAULT_THETA = 10_000.0


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One of the folder's files, or nothing if it is not there."""
    try:
        found = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise FailedPrecondition(f"{name} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise FailedPrecondition(f"{name} is not a JSON object")
    return found


def read_config(folder: Path) -> LlamaConfig:
    """The decoder's dimensions.

    Raises:
        FailedPrecondition: it is not a decoder that runs here; the message names what does.
    """
    said = read_json(folder, CONFIG)
    architecture = _architecture(said)
    for key, only in _MUST_BE.items():
        if said.get(key, only) != only:
            raise FailedPrecondition(f"{CONFIG}: {key} {said[key]!r} is not supported")
    hidden, heads = int(_required(said, "hidden_size")), int(_required(said, "num_attention_heads"))
    return LlamaConfig(
        layers=int(_required(said, "num_hidden_layers")),
        hidden=hidden,
        intermediate=int(_required(said, "intermediate_size")),
        heads=heads,
        kv_heads=int(said.get("num_key_value_heads") or heads),
        head_dim=int(said.get("head_dim") or hidden // heads),
        vocabulary=int(_required(said, "vocab_size")),
        rope_theta=_theta(said),
        rms_epsilon=float(said.get("rms_norm_eps", 1e-6)),
        trained_context_tokens=_context(said, architecture),
        tied_embeddings=bool(said.get("tie_word_embeddings", False)),
        qkv_bias=_HAS_QKV_BIAS[architecture],
    )


def rope_divisors(folder: Path, head_dim: int) -> NDArray[np.float32] | None:
    """What the rotary frequencies are divided by, where the context has been stretched."""
    rope = _rope(read_json(folder, CONFIG))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return np.full(head_dim // 2, float(_required(rope, "factor")), np.float32)
    if kind == "llama3":
        return _llama3_divisors(rope, head_dim)
    raise FailedPrecondition(f"rope scaling {kind!r} is not supported; 'linear' and 'llama3' are")


def _llama3_divisors(rope: Mapping[str, Any], head_dim: int) -> NDArray[np.float32]:
    """Low frequencies are stretched, high ones are not, and between them it changes smoothly."""
    factor = float(_required(rope, "factor"))
    low, high = (
        float(_required(rope, "low_freq_factor")),
        float(_required(rope, "high_freq_factor")),
    )
    trained = float(_required(rope, "original_max_position_embeddings"))
    theta = float(rope["theta"])
    turns = trained * theta ** -(np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / (kept + (1 - kept) / factor)).astype(np.float32)


def _architecture(said: Mapping[str, Any]) -> str:
    names = said.get("architectures") or [said.get("model_type")]
    if len(names) != 1 or names[0] not in _HAS_QKV_BIAS:
        raise FailedPrecondition(
            f"{CONFIG}: the architecture {names[0]!r} is not supported for text generation; "
            f"{', '.join(_HAS_QKV_BIAS)} are"
        )
    return str(names[0])


def _context(said: Mapping[str, Any], architecture: str) -> int:
    """Attention to a sliding window is the plain one as long as the context is no longer."""
    longest = int(_required(said, "max_position_embeddings"))
    slides = said.get("use_sliding_window", architecture == "MistralForCausalLM")
    window = said.get("sliding_window") if slides else None
    return longest if window is None else min(longest, int(window))


def _theta(said: Mapping[str, Any]) -> float:
    return float(_rope(said)["theta"])


def _rope(said: Mapping[str, Any]) -> dict[str, Any]:
    """How positions are rotated: one section in newer files, two places in older ones."""
    rope = dict(said.get("rope_parameters") or said.get("rope_scaling") or {})
    rope["theta"] = rope.get("rope_theta", said.get("rope_theta", _DEFAULT_THETA))
    return rope


def _required(said: Mapping[str, Any], key: str) -> Any:
    if said.get(key) is None:
        raise FailedPrecondition(f"{CONFIG} lacks {key}")
    return said[key]
