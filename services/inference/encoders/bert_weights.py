"""The weights of an encoder's folder, under the names of a bare `BertModel`.

What BERT, RoBERTa and DistilBERT call alike things differs, and files differ in their prefixes; a
classifier's two layers are `head.dense` and `head.out` here. It knows names, not numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mesh.errors import FailedPrecondition
from services.inference.encoders.bert_config import Family

Weights = Mapping[str, NDArray[Any]]

_OLD_NORM: Final = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))
_RENAMED: Final[Mapping[Family, tuple[tuple[str, str], ...]]] = MappingProxyType(
    {
        "bert": (
            (r"^bert\.", ""),
            (r"^pooler\.dense\.", "head.dense."),
            (r"^classifier\.", "head.out."),
        ),
        "roberta": (
            (r"^roberta\.", ""),
            (r"^classifier\.dense\.", "head.dense."),
            (r"^classifier\.out_proj\.", "head.out."),
        ),
        "distilbert": (
            (r"^distilbert\.", ""),
            (r"^pre_classifier\.", "head.dense."),
            (r"^classifier\.", "head.out."),
            (r"^transformer\.layer\.", "encoder.layer."),
            (r"\.attention\.q_lin\.", ".attention.self.query."),
            (r"\.attention\.k_lin\.", ".attention.self.key."),
            (r"\.attention\.v_lin\.", ".attention.self.value."),
            (r"\.attention\.out_lin\.", ".attention.output.dense."),
            (r"\.sa_layer_norm\.", ".attention.output.LayerNorm."),
            (r"\.ffn\.lin1\.", ".intermediate.dense."),
            (r"\.ffn\.lin2\.", ".output.dense."),
            (r"\.output_layer_norm\.", ".output.LayerNorm."),
        ),
    }
)


def load_bert_weights(folder: Path, family: Family) -> Weights:
    """Reads every safetensors file of the folder.

    Raises:
        FailedPrecondition: there is none, or it cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FailedPrecondition("the artefact has no model.safetensors")
    weights: dict[str, NDArray[Any]] = {}
    for file in files:
        try:
            weights |= load_file(file)
        except SafetensorError as error:
            raise FailedPrecondition(f"{file.name} cannot be read: {error}") from error
    return {plain_name(name, family): values for name, values in weights.items()}


def plain_name(name: str, family: Family) -> str:
    """A weight's name in a bare `BertModel`."""
    for pattern, plain in (*_RENAMED[family], *_OLD_NORM):
        name = re.sub(pattern, plain, name)
    return name
