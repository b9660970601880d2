"""What an encoder's folder says is taken exactly or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import FailedPrecondition
from services.inference.encoders.sentence_config import read_sentence_config

MODEL = {
    "model_type": "bert",
    "num_hidden_layers": 6,
    "hidden_size": 384,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
POOLING = {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True}
MODULES = [{"type": f"sentence_transformers.models.{m}"} for m in ("Transformer", "Pooling")]
NORMALIZE = {"type": "sentence_transformers.models.Normalize"}


def write(folder: Path, **files: Any) -> Path:
    names = {"config": MODEL, "pooling": POOLING, "modules": [*MODULES, NORMALIZE], **files}
    (folder / "1_Pooling").mkdir()
    paths = {"config": "config.json", "pooling": "1_Pooling/config.json", "modules": "modules.json"}
    paths["sentence"] = "sentence_bert_config.json"
    for name, content in names.items():
        (folder / paths[name]).write_text(json.dumps(content))
    return folder


def test_the_folder_of_a_mean_pooled_encoder(tmp_path: Path) -> None:
    config = read_sentence_config(write(tmp_path, sentence={"max_seq_length": 256}))
    assert (config.layers, config.hidden, config.heads) == (6, 384, 12)
    assert (config.pooling, config.normalize, config.max_tokens) == ("mean", True, 256)


def test_without_a_limit_of_its_own_the_positions_are_the_limit(tmp_path: Path) -> None:
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    config = read_sentence_config(write(tmp_path, pooling=pooling, modules=MODULES))
    assert (config.pooling, config.normalize, config.max_tokens) == ("cls", False, 512)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config": {**MODEL, "model_type": "t5"}}, "type 't5'"),
        ({"config": {**MODEL, "position_embedding_type": "relative_key"}}, "absolute"),
        ({"config": {**MODEL, "hidden_act": "swish"}}, "activation 'swish'"),
        ({"pooling": {"pooling_mode_max_tokens": True}}, "mean or first-token pooling"),
        ({"pooling": {**POOLING, "pooling_mode_cls_token": True}}, "mean or first-token pooling"),
        ({"modules": [*MODULES, {"type": "x.Dense"}]}, r"modules \['Dense'\]"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(
    tmp_path: Path, files: dict[str, Any], message: str
) -> None:
    with pytest.raises(FailedPrecondition, match=message):
        read_sentence_config(write(tmp_path, **files))


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"no config\.json"):
        read_sentence_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FailedPrecondition, match=r"config\.json is not JSON"):
        read_sentence_config(tmp_path)
