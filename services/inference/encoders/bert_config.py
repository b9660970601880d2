"""What the files of a sentence-transformers folder say about a BERT encoder.

Read once, checked at once: whatever this node cannot reproduce exactly (another architecture, a
pooling that it does not know, an extra projection) is refused by name instead of being served with
a wrong answer. It knows neither weights nor graphs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mesh.errors import FailedPrecondition

Pooling = Literal["mean", "cls"]

_ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}


@dataclass(frozen=True, slots=True)
class BertConfig:
    """An encoder's dimensions, and how its token vectors become one."""

    layers: int
    hidden: int
    heads: int
    epsilon: float
    gelu_approximation: str
    pooling: Pooling
    normalize: bool
    max_tokens: int


def read_bert_config(folder: Path) -> BertConfig:
    """Reads and checks the folder's configuration files.

    Raises:
        FailedPrecondition: a file is missing, or says something that this node cannot run.
    """
    model = _read(folder, "config.json")
    if model.get("model_type") != "bert":
        raise FailedPrecondition(f"encoders of type {model.get('model_type')!r} are not supported")
    if model.get("position_embedding_type", "absolute") != "absolute":
        raise FailedPrecondition("only absolute position embeddings are supported")
    activation = model.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise FailedPrecondition(f"the activation {activation!r} is not supported")
    positions = model["max_position_embeddings"]
    return BertConfig(
        layers=model["num_hidden_layers"],
        hidden=model["hidden_size"],
        heads=model["num_attention_heads"],
        epsilon=model.get("layer_norm_eps", 1e-12),
        gelu_approximation=_ACTIVATIONS[activation],
        pooling=_pooling(folder),
        normalize=_normalizes(folder),
        max_tokens=min(positions, _max_sequence(folder) or positions),
    )


def _pooling(folder: Path) -> Pooling:
    modes = {
        key
        for key, is_on in _read(folder, "1_Pooling/config.json").items()
        if key.startswith("pooling_mode_") and is_on is True
    }
    if len(modes) != 1 or (mode := modes.pop()) not in _POOLINGS:
        raise FailedPrecondition("only mean or first-token pooling is supported")
    return _POOLINGS[mode]


def _normalizes(folder: Path) -> bool:
    kinds = [row["type"].rpartition(".")[2] for row in _read(folder, "modules.json")]
    unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise FailedPrecondition(f"modules {sorted(unknown)} are not supported")
    return "Normalize" in kinds


def _max_sequence(folder: Path) -> int | None:
    path = folder / "sentence_bert_config.json"
    limit = json.loads(path.read_bytes()).get("max_seq_length") if path.exists() else None
    return limit if isinstance(limit, int) else None


def _read(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        raise FailedPrecondition(f"the artefact has no {name}") from None
    except ValueError as error:
        raise FailedPrecondition(f"{name} is not JSON: {error}") from None
