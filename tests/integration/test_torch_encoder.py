"""Encoders on torch, without a GPU: transformers' scores and vectors, the same bits in company."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mesh.manifest import Manifest
from mesh.tensor import Tensor, encode_raw
from services.inference.backends.backend import (
    BackendSettings,
    BackendUnavailable,
    Graph,
    InputsRefused,
    Obstacle,
)
from services.inference.backends.torch.backend import TorchBackend
from services.inference.batching.terms import ANY_TIME
from services.inference.encoders.bert_config import read_encoder, read_head
from services.inference.encoders.bert_source import BertSource
from services.inference.encoders.bert_weights import load_bert_weights
from services.inference.encoders.sentence_encoder import open_sentence_encoder
from services.inference.encoders.text_classifier import open_text_classifier
from tests.integration.node_rig import spec_of
from tests.integration.tensor_place import make_place
from tests.reference.tiny_encoders import ENCODERS, TEXTS, write_encoder

if TYPE_CHECKING:
    from services.inference.backends.backend import GraphRunner
    from services.inference.encoders.text_model import TextModel

pytest.importorskip("torch")

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "classifiers.json").read_text())
BACKEND = TorchBackend(BackendSettings(threads=2))


async def open_model(folder: Path, name: str, task: str) -> TextModel:
    document = {"name": "tiny", "task": task, "format": "transformers", "backend": "torch"}
    place = replace(make_place(folder / "cache"), backends=(BACKEND,))
    opener = open_text_classifier if task == "text-classification" else open_sentence_encoder
    files = write_encoder(folder / name, ENCODERS[name])
    model = await opener(files, spec_of(Manifest.model_validate(document)), place)
    assert (model.backend, model.remark) == ("torch", "")
    return model


async def answer(model: TextModel, output: str) -> np.ndarray:
    texts = np.array([text.encode() for text in TEXTS], np.object_)
    tensor = Tensor("text", "BYTES", (len(TEXTS),), encode_raw(texts, "BYTES"))
    made = await model.infer((tensor,), ANY_TIME)
    found = next(each for each in made.outputs if each.name == output)
    return np.frombuffer(found.raw, "<f4").reshape(found.shape)


def graph_of(folder: Path, name: str, *, classifies: bool) -> Graph:
    files = write_encoder(folder / name, ENCODERS[name])
    config = read_encoder(files)
    if classifies:
        config = replace(config, classifier=read_head(files))

    def no_onnx() -> Path:
        pytest.fail("torch takes weights")

    source = BertSource(config, lambda: load_bert_weights(files, config.family))
    return Graph(model=name, digest="0" * 64, onnx=no_onnx, cache_dir=folder, encoder=source)


def run(runner: GraphRunner, rows: list[list[int]], width: int) -> np.ndarray:
    ids = np.zeros((len(rows), width), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    lengths = np.array([len(row) for row in rows], np.int64)
    (found,) = runner.run([runner.outputs[0].name], {"input_ids": ids, "lengths": lengths})
    return found


@pytest.mark.parametrize("name", ENCODERS)
async def test_scores_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    model = await open_model(tmp_path, name, "text-classification")
    got = await answer(model, "scores")
    await model.close()
    assert np.abs(got - np.array(GOLDEN[name]["scores"])).max() < 2e-6


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
async def test_vectors_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    model = await open_model(tmp_path, name, "text-embedding")
    got = await answer(model, "embedding")
    await model.close()
    assert np.abs(got - np.array(GOLDEN[name]["embeddings"])).max() < 5e-6


@pytest.mark.parametrize("width", [8, 9, 10])
@pytest.mark.parametrize("classifies", [True, False])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
def test_company_changes_no_bit(tmp_path: Path, name: str, classifies: bool, width: int) -> None:
    runner = BACKEND.open_graph(graph_of(tmp_path, name, classifies=classifies))
    rows = [[2 + (i * 7 + k) % 20 for k in range(3 + i % 5)] for i in range(33)]
    together = run(runner, rows, width)
    for count in (1, 2, 3, 5, 8, 13):
        assert run(runner, rows[:count], width).tobytes() == together[:count].tobytes()
    assert runner.memory_bytes > 0
    runner.close()


def test_a_token_without_a_vector_is_refused_before_it_reaches_the_device(tmp_path: Path) -> None:
    runner = BACKEND.open_graph(graph_of(tmp_path, "bert", classifies=False))
    for wrong in (-1, 1_000_000):
        with pytest.raises(InputsRefused, match=f"token {wrong} is outside"):
            run(runner, [[2, 3], [4, wrong]], 8)
    runner.close()


def test_a_graph_without_a_known_architecture_is_refused() -> None:
    graph = Graph(model="m", digest="0" * 64, onnx=Path, cache_dir=Path("nowhere"))
    with pytest.raises(BackendUnavailable) as refused:
        BACKEND.open_graph(graph)
    assert refused.value.obstacle is Obstacle.UNSUPPORTED_MODEL
