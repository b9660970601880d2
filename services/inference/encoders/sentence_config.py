"""What the files of a sentence-transformers folder say beyond config.json.

A pooling that this node does not know, or an extra projection, is refused by name.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from mesh.errors import FailedPrecondition
from services.inference.encoders.bert_config import BertConfig, Pooling, read_encoder, read_json

_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}


def read_sentence_config(folder: Path) -> BertConfig:
    """Reads and checks the folder's configuration files.

    Raises:
        FailedPrecondition: a file is missing, or says something that this node cannot run.
    """
    encoder = read_encoder(folder)
    return replace(
        encoder,
        pooling=_pooling(folder),
        normalize=_normalizes(folder),
        max_tokens=min(encoder.max_tokens, _max_sequence(folder) or encoder.max_tokens),
    )


def _pooling(folder: Path) -> Pooling:
    modes = {
        key
        for key, is_on in read_json(folder, "1_Pooling/config.json").items()
        if key.startswith("pooling_mode_") and is_on is True
    }
    if len(modes) != 1 or (mode := modes.pop()) not in _POOLINGS:
        raise FailedPrecondition("only mean or first-token pooling is supported")
    return _POOLINGS[mode]


def _normalizes(folder: Path) -> bool:
    kinds = [row["type"].rpartition(".")[2] for row in read_json(folder, "modules.json")]
    unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise FailedPrecondition(f"modules {sorted(unknown)} are not supported")
    return "Normalize" in kinds


def _max_sequence(folder: Path) -> int | None:
    path = folder / "sentence_bert_config.json"
    limit = json.loads(path.read_bytes()).get("max_seq_length") if path.exists() else None
    return limit if isinstance(limit, int) else None
