"""Models of known shapes with random weights, for machines that cannot fetch real ones.

What a step costs does not depend on what the weights say, nor does it whether two backends agree.
What they answer is nonsense. Written as the folders that Hugging Face's libraries save.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

Shape = tuple[int, ...]

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rms_norm_eps": 1e-5,
}
DECODERS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "135m": {  # SmolLM2-135M
            **_LLAMA,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49_152,
            "max_position_embeddings": 8192,
            "rope_theta": 100_000.0,
        },
        "1b": {  # Llama 3.2 1B
            **_LLAMA,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "vocab_size": 128_256,
            "max_position_embeddings": 8192,
            "rope_theta": 500_000.0,
        },
        "tiny": {  # for a try
            **_LLAMA,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 20_480,
            "max_position_embeddings": 2048,
            "rope_theta": 10_000.0,
        },
    }
)
_MINILM: dict[str, Any] = {  # all-MiniLM-L6-v2
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "vocab_size": 30_522,
}


def write_decoder(size: str, folder: Path) -> Path:
    """A language model of the Llama family, in bfloat16; one of `DECODERS`."""
    config = DECODERS[size]
    _write(folder, config, _decoder_shapes(config), np.dtype(ml_dtypes.bfloat16))
    return folder


def write_encoder(folder: Path) -> Path:
    """A sentence encoder, in float32."""
    _write(folder, _MINILM, _encoder_shapes(_MINILM), np.dtype(np.float32))
    kinds = ["Transformer", "Pooling", "Normalize"]
    modules = [{"idx": i, "type": f"sentence_transformers.models.{k}"} for i, k in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = json.dumps({"pooling_mode_mean_tokens": True})
    (folder / "1_Pooling" / "config.json").write_text(pooling)
    return folder


def _write(
    folder: Path, config: dict[str, Any], shapes: Iterator[tuple[str, Shape]], kind: np.dtype[Any]
) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(7)
    weights = {name: _weight(random, name, shape).astype(kind) for name, shape in shapes}
    save_file(weights, folder / "model.safetensors")
    _tokenizer().save(str(folder / "tokenizer.json"))


def _weight(random: np.random.Generator, name: str, shape: Shape) -> NDArray[np.float32]:
    if len(shape) == 1:  # a norm's scale, or a bias
        return np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32)
    weight: NDArray[np.float32] = random.standard_normal(shape, dtype=np.float32)
    return weight / np.float32(np.sqrt(shape[-1]))


def _decoder_shapes(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim", hidden // config["num_attention_heads"])
    queries = config["num_attention_heads"] * head_dim
    keys = config["num_key_value_heads"] * head_dim
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    yield "model.norm.weight", (hidden,)
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        yield f"{name}.input_layernorm.weight", (hidden,)
        yield f"{name}.post_attention_layernorm.weight", (hidden,)
        for part, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{name}.self_attn.{part}_proj.weight", (rows, hidden)
        yield f"{name}.self_attn.o_proj.weight", (hidden, queries)
        for part in ("gate", "up"):
            yield f"{name}.mlp.{part}_proj.weight", (inner, hidden)
        yield f"{name}.mlp.down_proj.weight", (hidden, inner)


def _encoder_shapes(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    for part, key in (
        ("word", "vocab_size"),
        ("position", "max_position_embeddings"),
        ("token_type", "type_vocab_size"),
    ):
        yield f"embeddings.{part}_embeddings.weight", (config[key], hidden)
    yield from _with_bias("embeddings.LayerNorm", (hidden,))
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            yield from _with_bias(f"{name}.attention.self.{part}", (hidden, hidden))
        yield from _with_bias(f"{name}.attention.output.dense", (hidden, hidden))
        yield from _with_bias(f"{name}.attention.output.LayerNorm", (hidden,))
        yield from _with_bias(f"{name}.intermediate.dense", (inner, hidden))
        yield from _with_bias(f"{name}.output.dense", (hidden, inner))
        yield from _with_bias(f"{name}.output.LayerNorm", (hidden,))


def _with_bias(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _tokenizer() -> Tokenizer:
    """A token for each byte: prompts are given as ids."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
