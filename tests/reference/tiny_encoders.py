"""Small encoders of each family, made from seeds: folders as `save_pretrained` writes them.

The weights are random, but the same on every machine: what transformers computes with them is in
`classifiers.json` (see `generate_classifiers.py`), what the node computes is compared with it.
Neither torch nor transformers is needed to make them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

Family = Literal["bert", "roberta", "distilbert"]
Shapes = Iterator[tuple[str, tuple[int, ...]]]

HIDDEN, INNER, HEADS, LAYERS, TOKENS = 32, 48, 4, 2, 40
WORDS = ["the", "not", "good", "bad", "film", "was", "is", "very", "and", "dull", "bright", "story",
         "sea", "##ing", "##ly", ".", ",", "!", "?", "'", "é", "日"]  # fmt: skip
LETTERS = "abcdefghijklmnopqrstuvwx"
TEXTS = (
    "The film was very good.",
    "the story is dull, and the actors bad!",
    "",
    "Not a bad film",
    "éa 日 zz unknown???",
    "the sea was bright and " * 20,
)


@dataclass(frozen=True)
class TinyEncoder:
    """One of them; `head` adds to its config.json what a classifier's has."""

    family: Family
    seed: int
    labels: tuple[str, ...]
    head: Mapping[str, Any]


ENCODERS: Mapping[str, TinyEncoder] = {
    "bert": TinyEncoder("bert", 1, ("negative", "neutral", "positive"), {}),
    "roberta": TinyEncoder(
        "roberta", 2, ("no", "yes"), {"problem_type": "single_label_classification"}
    ),
    "distilbert": TinyEncoder(
        "distilbert", 3, ("rain", "sun", "wind"), {"problem_type": "multi_label_classification"}
    ),
    "one-label": TinyEncoder("bert", 4, ("toxic",), {}),
    "regression": TinyEncoder("bert", 5, ("stars",), {"problem_type": "regression"}),
}


def write_encoder(folder: Path, encoder: TinyEncoder) -> Path:
    """Writes config.json, model.safetensors and tokenizer.json; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(encoder.family)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = make_config(encoder, tokenizer.get_vocab_size())
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    random = np.random.default_rng(encoder.seed)
    shapes = make_shapes(encoder, tokenizer.get_vocab_size())
    weights = {name: _values(random, name, shape) for name, shape in shapes}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_tokenizer(family: Family) -> Tokenizer:
    """WordPiece with the special tokens where the family has them."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    if family == "roberta":  # whose padding is token 1, from which positions count
        specials = ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]
    words = [*specials, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocabulary = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    ends = [(each, vocabulary[each]) for each in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def make_config(encoder: TinyEncoder, vocabulary: int) -> dict[str, Any]:
    """config.json, in the family's own words."""
    architecture = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}
    config: dict[str, Any] = {
        "model_type": encoder.family,
        "architectures": [f"{architecture[encoder.family]}ForSequenceClassification"],
        "vocab_size": vocabulary,
        "id2label": {str(place): label for place, label in enumerate(encoder.labels)},
        "label2id": {label: place for place, label in enumerate(encoder.labels)},
        "max_position_embeddings": TOKENS + (2 if encoder.family == "roberta" else 0),
        **encoder.head,
    }
    if encoder.family == "distilbert":
        return config | {
            "dim": HIDDEN,
            "hidden_dim": INNER,
            "n_heads": HEADS,
            "n_layers": LAYERS,
            "activation": "gelu",
        }
    return config | {
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5 if encoder.family == "roberta" else 1e-12,
        "type_vocab_size": 1 if encoder.family == "roberta" else 2,
        "pad_token_id": 1 if encoder.family == "roberta" else 0,
    }


def make_shapes(encoder: TinyEncoder, vocabulary: int) -> Shapes:
    """Every weight, in the family's own names."""
    family, labels = encoder.family, len(encoder.labels)
    offset = 2 if family == "roberta" else 0
    yield f"{family}.embeddings.word_embeddings.weight", (vocabulary, HIDDEN)
    yield f"{family}.embeddings.position_embeddings.weight", (TOKENS + offset, HIDDEN)
    if family != "distilbert":
        types = 1 if family == "roberta" else 2
        yield f"{family}.embeddings.token_type_embeddings.weight", (types, HIDDEN)
    yield from _norm(f"{family}.embeddings.LayerNorm")
    layers = f"{family}.transformer.layer" if family == "distilbert" else f"{family}.encoder.layer"
    for layer in range(LAYERS):
        one = _distilbert_layer if family == "distilbert" else _bert_layer
        yield from one(f"{layers}.{layer}")
    dense, out = {
        "bert": ("bert.pooler.dense", "classifier"),
        "roberta": ("classifier.dense", "classifier.out_proj"),
        "distilbert": ("pre_classifier", "classifier"),
    }[family]
    yield from _linear(dense, HIDDEN, HIDDEN)
    yield from _linear(out, labels, HIDDEN)


def _bert_layer(name: str) -> Shapes:
    for part in ("query", "key", "value"):
        yield from _linear(f"{name}.attention.self.{part}", HIDDEN, HIDDEN)
    yield from _linear(f"{name}.attention.output.dense", HIDDEN, HIDDEN)
    yield from _norm(f"{name}.attention.output.LayerNorm")
    yield from _linear(f"{name}.intermediate.dense", INNER, HIDDEN)
    yield from _linear(f"{name}.output.dense", HIDDEN, INNER)
    yield from _norm(f"{name}.output.LayerNorm")


def _distilbert_layer(name: str) -> Shapes:
    for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
        yield from _linear(f"{name}.attention.{part}", HIDDEN, HIDDEN)
    yield from _norm(f"{name}.sa_layer_norm")
    yield from _linear(f"{name}.ffn.lin1", INNER, HIDDEN)
    yield from _linear(f"{name}.ffn.lin2", HIDDEN, INNER)
    yield from _norm(f"{name}.output_layer_norm")


def _linear(name: str, rows: int, columns: int) -> Shapes:
    yield f"{name}.weight", (rows, columns)
    yield f"{name}.bias", (rows,)


def _norm(name: str) -> Shapes:
    yield f"{name}.weight", (HIDDEN,)
    yield f"{name}.bias", (HIDDEN,)


def _values(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = random.standard_normal(shape) * 0.3
    is_scale = "norm.weight" in name.lower()
    return (1 + values if is_scale else values).astype(np.float32)
