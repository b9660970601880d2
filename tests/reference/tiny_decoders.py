"""Tiny decoders of each supported kind as Hugging Face folders: made from a seed, the same always.

They answer nonsense; what counts is that the reference and this project answer the same nonsense.
Needs numpy, ml_dtypes, safetensors and tokenizers, which both environments have.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

if TYPE_CHECKING:
    from pathlib import Path

PROMPT = tuple((37 * i + 11) % 256 for i in range(70))
PREFIXES = (1, 9, 70)
NEW_TOKENS = 12
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
)

_PLAIN: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 272,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_PLAIN, "architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "llama-stretched": {
        **_PLAIN,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": 32,
        "rope_theta": 500_000.0,
        "rope_scaling": _LLAMA3,
        "tie_word_embeddings": True,
    },
    "llama-linear": {
        **_PLAIN,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_scaling": {"type": "linear", "factor": 4.0},
        "num_key_value_heads": 4,
    },
    "mistral": {
        **_PLAIN,
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": 128,
    },
    "qwen2": {
        **_PLAIN,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "sliding_window": 32,
    },
}
STORED_AS = {"llama-stretched": ml_dtypes.bfloat16, "llama-linear": np.float16}
"""The others are float32."""
IN_PARTS = {"llama-stretched", "qwen2"}
"""In several files with an index."""


def write_folder(kind: str, folder: Path) -> Path:
    """Writes the decoder of that kind into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIGS[kind]
    (folder / "config.json").write_text(json.dumps(config))
    _write_weights(kind, config, folder)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    said = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    generation = {"eos_token_id": [257, 258], "temperature": 0.7, "top_p": 0.9, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def make_tokenizer() -> Tokenizer:
    """A token for each byte, and some more; text begins with `<s>`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<s>", "</s>", "<end>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 256)]
    )
    return tokenizer


def make_weights(kind: str) -> dict[str, np.ndarray]:
    """Weights under the names of transformers, in the type in which they are stored."""
    config = CONFIGS[kind]
    random = np.random.default_rng(sorted(CONFIGS).index(kind))
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim", hidden // config["num_attention_heads"])
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        shapes |= {
            f"{name}.input_layernorm.weight": (hidden,),
            f"{name}.self_attn.q_proj.weight": (q, hidden),
            f"{name}.self_attn.k_proj.weight": (kv, hidden),
            f"{name}.self_attn.v_proj.weight": (kv, hidden),
            f"{name}.self_attn.o_proj.weight": (hidden, q),
            f"{name}.post_attention_layernorm.weight": (hidden,),
            f"{name}.mlp.gate_proj.weight": (inner, hidden),
            f"{name}.mlp.up_proj.weight": (inner, hidden),
            f"{name}.mlp.down_proj.weight": (hidden, inner),
        }
        if kind == "qwen2":
            shapes |= {f"{name}.self_attn.{p}_proj.bias": (q if p == "q" else kv,) for p in "qkv"}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    stored = STORED_AS.get(kind, np.float32)
    return {
        name: (random.normal(size=shape) * 0.2 + ("norm" in name)).astype(stored)
        for name, shape in shapes.items()
    }


def _write_weights(kind: str, config: dict[str, Any], folder: Path) -> None:
    weights = make_weights(kind)
    if kind not in IN_PARTS:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2]}
    parts["model-00002-of-00002.safetensors"] = names[1::2]
    for file, inside in parts.items():
        save_file({n: weights[n] for n in inside}, folder / file, metadata={"format": "pt"})
    places = {name: file for file, inside in parts.items() for name in inside}
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
