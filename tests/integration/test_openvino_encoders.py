"""Encoders on the real OpenVINO: transformers' scores and vectors, the same bits in company."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mesh.manifest import Manifest
from mesh.tensor import Tensor, encode_raw
from services.inference.backends.backend import Device
from services.inference.batching.terms import ANY_TIME
from services.inference.encoders.bert_encoder import padded_width
from services.inference.encoders.sentence_encoder import open_sentence_encoder
from services.inference.encoders.text_classifier import open_text_classifier
from tests.integration.node_rig import spec_of
from tests.integration.openvino_rig import BACKEND, CAPABILITIES, OTHER
from tests.integration.tensor_place import make_place
from tests.reference.tiny_encoders import ENCODERS, TEXTS, write_encoder

if TYPE_CHECKING:
    from services.inference.encoders.text_model import TextModel
    from services.inference.models.tensor_model import TensorModel

REFERENCE = Path(__file__).parents[1] / "reference"
GOLDEN = json.loads((REFERENCE / "classifiers.json").read_text())
needs_bfloat16 = pytest.mark.skipif("BF16" not in CAPABILITIES, reason="no bfloat16 on this CPU")


async def open_text(folder: Path, name: str, task: str, **wishes: str) -> TextModel:
    document = {"name": "tiny", "task": task, "format": "transformers", "backend": "openvino"}
    place = replace(make_place(folder / "cache"), backends=(OTHER, BACKEND))
    opener = open_text_classifier if task == "text-classification" else open_sentence_encoder
    files = write_encoder(folder / name, ENCODERS[name])
    model = await opener(files, spec_of(Manifest.model_validate({**document, **wishes})), place)
    assert (model.backend, model.remark, model.device) == ("openvino", "", Device.CPU)
    assert model.memory_bytes > 0
    return model


async def answer(model: TensorModel, output: str, *texts: str) -> np.ndarray:
    items = np.array([text.encode() for text in texts], np.object_)
    tensor = Tensor("text", "BYTES", (len(texts),), encode_raw(items, "BYTES"))
    made = await model.infer((tensor,), ANY_TIME)
    found = next(each for each in made.outputs if each.name == output)
    return np.frombuffer(found.raw, "<f4").reshape(found.shape)


@pytest.mark.parametrize("name", ENCODERS)
async def test_scores_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    model = await open_text(tmp_path, name, "text-classification")
    got = await answer(model, "scores", *TEXTS)
    await model.close()
    assert np.abs(got - np.array(GOLDEN[name]["scores"])).max() < 2e-6


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
async def test_vectors_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    model = await open_text(tmp_path, name, "text-embedding")
    got = await answer(model, "embedding", *TEXTS)
    await model.close()
    assert np.abs(got - np.array(GOLDEN[name]["embeddings"])).max() < 5e-6


@needs_bfloat16
async def test_bfloat16_is_there_for_who_asks(tmp_path: Path) -> None:
    model = await open_text(tmp_path, "bert", "text-embedding", precision="bf16")
    got = await answer(model, "embedding", *TEXTS)
    alone = np.concatenate([await answer(model, "embedding", text) for text in TEXTS])
    await model.close()
    expected = np.array(GOLDEN["bert"]["embeddings"])
    assert 1e-4 < np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
    assert got.tobytes() == alone.tobytes()


@pytest.mark.model
@pytest.mark.parametrize("precision", ["auto", pytest.param("bf16", marks=needs_bfloat16)])
async def test_company_changes_no_bit_of_a_vector(
    demo_models: Any, tmp_path: Path, precision: str
) -> None:
    sentences = json.loads((REFERENCE / "minilm.json").read_text())["sentences"]
    document = {"name": "minilm", "task": "text-embedding", "format": "sentence-transformers"}
    wishes = {"backend": "openvino", "precision": precision}
    place = replace(make_place(tmp_path), backends=(BACKEND,))
    spec = spec_of(Manifest.model_validate({**document, **wishes}))
    model = await open_sentence_encoder(demo_models.minilm_folder, spec, place)
    together = await answer(model, "embedding", *sentences)
    rows = model._encoder.tokenize(sentences)
    for place_, row in enumerate(rows[:12]):
        width = padded_width(len(row), 256)
        (alone,) = model._encoder.encode([row], width)
        assert np.array_equal(alone, together[place_])
        for count in (2, 3, 7, 16, 32):
            company = [row, *(each[: len(row)] for each in rows)][:count]
            assert np.array_equal(alone, model._encoder.encode(company, width)[0])
    await model.close()
    expected = np.load(REFERENCE / "minilm.npz")["embeddings"]
    cosine = (together * expected).sum(axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > (0.9999 if precision == "auto" else 0.999)
