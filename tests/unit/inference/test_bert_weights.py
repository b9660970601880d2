"""Weights are found whatever the family calls them, in one file or several, in any precision."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from mesh.errors import FailedPrecondition
from services.inference.encoders.bert_config import Family
from services.inference.encoders.bert_weights import load_bert_weights, plain_name
from tests.reference.tiny_encoders import ENCODERS, make_shapes


@pytest.mark.parametrize(
    ("name", "family", "plain"),
    [
        ("bert.embeddings.LayerNorm.gamma", "bert", "embeddings.LayerNorm.weight"),
        ("embeddings.LayerNorm.beta", "bert", "embeddings.LayerNorm.bias"),
        ("bert.pooler.dense.weight", "bert", "head.dense.weight"),
        ("classifier.bias", "bert", "head.out.bias"),
        (
            "roberta.encoder.layer.3.output.dense.bias",
            "roberta",
            "encoder.layer.3.output.dense.bias",
        ),
        ("classifier.dense.weight", "roberta", "head.dense.weight"),
        ("classifier.out_proj.weight", "roberta", "head.out.weight"),
        ("pre_classifier.bias", "distilbert", "head.dense.bias"),
        (
            "distilbert.transformer.layer.1.attention.q_lin.weight",
            "distilbert",
            "encoder.layer.1.attention.self.query.weight",
        ),
        (
            "transformer.layer.0.sa_layer_norm.bias",
            "distilbert",
            "encoder.layer.0.attention.output.LayerNorm.bias",
        ),
        (
            "transformer.layer.0.output_layer_norm.bias",
            "distilbert",
            "encoder.layer.0.output.LayerNorm.bias",
        ),
    ],
)
def test_a_weight_has_one_name(name: str, family: Family, plain: str) -> None:
    assert plain_name(name, family) == plain


def test_the_families_come_to_the_same_names() -> None:
    names = {
        each: {
            plain_name(name, ENCODERS[each].family) for name, _ in make_shapes(ENCODERS[each], 9)
        }
        for each in ("bert", "roberta", "distilbert")
    }
    types = {"embeddings.token_type_embeddings.weight"}
    assert names["bert"] == names["roberta"] == names["distilbert"] | types


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_several_files_are_one_model(tmp_path: Path, dtype: type) -> None:
    for number, name in enumerate(("bert.a", "b"), 1):
        values = np.array([number, -0.5], np.float32).astype(dtype)
        save_file({name: values}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    weights = load_bert_weights(tmp_path, "bert")
    read = {name: values.astype(np.float32).tolist() for name, values in weights.items()}
    assert read == {"a": [1, -0.5], "b": [2, -0.5]}


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"no model\.safetensors"):
        load_bert_weights(tmp_path, "bert")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(FailedPrecondition, match=r"model\.safetensors cannot be read"):
        load_bert_weights(tmp_path, "bert")
