"""What config.json says about an encoder of the BERT family: its dimensions, family and labels.

Read once, checked at once: whatever this node cannot reproduce exactly (another architecture, an
activation that it does not know) is refused by name instead of being served with a wrong answer.
It knows neither weights nor graphs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from mesh.errors import FailedPrecondition

Family = Literal["bert", "roberta", "distilbert"]
Pooling = Literal["mean", "cls"]
Activation = Literal["softmax", "sigmoid", "none"]

CONFIG = "config.json"
CLASSIFIER = "ForSequenceClassification"

_FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "bert": "bert",
        "roberta": "roberta",
        "xlm-roberta": "roberta",
        "camembert": "roberta",
        "distilbert": "distilbert",
    }
)
_GELU: Final = MappingProxyType({"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"})
_DISTILBERT_KEYS: Final = MappingProxyType(
    {
        "num_hidden_layers": "n_layers",
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "hidden_act": "activation",
    }
)


@dataclass(frozen=True, slots=True)
class ClassifierHead:
    """What a classifier makes of the first token's vector."""

    labels: tuple[str, ...]
    activation: Activation


@dataclass(frozen=True, slots=True)
class BertConfig:
    """An encoder's dimensions, and how its token vectors become one, or scores of labels."""

    layers: int
    hidden: int
    heads: int
    epsilon: float
    gelu_approximation: str
    max_tokens: int
    family: Family = "bert"
    position_offset: int = 0
    """The place of the first token in the table of positions."""
    pooling: Pooling = "mean"
    normalize: bool = False
    classifier: ClassifierHead | None = None


def read_encoder(folder: Path) -> BertConfig:
    """Reads the dimensions: an encoder whose token vectors are averaged, and no more.

    Raises:
        FailedPrecondition: a file is missing, or says something that this node cannot run.
    """
    model = read_json(folder, CONFIG)
    family = _family(model)
    activation = _take(model, family, "hidden_act", "gelu")
    if activation not in _GELU:
        raise FailedPrecondition(f"the activation {activation!r} is not supported")
    offset = _take(model, family, "pad_token_id", 1) + 1 if family == "roberta" else 0
    return BertConfig(
        layers=_take(model, family, "num_hidden_layers"),
        hidden=_take(model, family, "hidden_size"),
        heads=_take(model, family, "num_attention_heads"),
        epsilon=_take(model, family, "layer_norm_eps", 1e-12),
        gelu_approximation=_GELU[activation],
        max_tokens=_take(model, family, "max_position_embeddings") - offset,
        family=family,
        position_offset=offset,
    )


def read_head(folder: Path) -> ClassifierHead:
    """Reads the labels of a classifier, and how its scores come about, as transformers does.

    Raises:
        FailedPrecondition: it is none.
    """
    model = read_json(folder, CONFIG)
    (architecture, *_) = model.get("architectures") or ["a model without a head"]
    if not architecture.endswith(CLASSIFIER):
        raise FailedPrecondition(f"{CONFIG} is of {architecture}, which is no classifier of texts")
    labels = _labels(model)
    return ClassifierHead(labels, _activation(model.get("problem_type"), len(labels)))


def read_json(folder: Path, name: str) -> Any:
    """A file of the folder.

    Raises:
        FailedPrecondition: it is not there, or is not JSON.
    """
    try:
        return json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        raise FailedPrecondition(f"the artefact has no {name}") from None
    except ValueError as error:
        raise FailedPrecondition(f"{name} is not JSON: {error}") from None


def _family(model: Mapping[str, Any]) -> Family:
    kind = str(model.get("model_type"))
    if kind not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise FailedPrecondition(f"encoders of type {kind!r} are not supported; known are {known}")
    if model.get("position_embedding_type", "absolute") != "absolute":
        raise FailedPrecondition("only absolute position embeddings are supported")
    return _FAMILIES[kind]


def _take(model: Mapping[str, Any], family: Family, key: str, default: Any = None) -> Any:
    key = _DISTILBERT_KEYS.get(key, key) if family == "distilbert" else key
    value = model.get(key, default)
    if value is None:
        raise FailedPrecondition(f"{CONFIG} has no {key}")
    return value


def _labels(model: Mapping[str, Any]) -> tuple[str, ...]:
    named = model.get("id2label")
    if not named:
        return tuple(f"LABEL_{place}" for place in range(model.get("num_labels", 2)))
    places = sorted(named, key=int)
    if [int(place) for place in places] != list(range(len(places))):
        raise FailedPrecondition(f"{CONFIG}: id2label does not count from 0")
    return tuple(str(named[place]) for place in places)


def _activation(problem: str | None, labels: int) -> Activation:
    if problem == "regression":
        return "none"
    if problem == "multi_label_classification" or labels == 1:
        return "sigmoid"
    return "softmax"
