"""Text classifiers from Hugging Face folders: the scores of transformers, in any company."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from mesh.errors import FailedPrecondition
from mesh.manifest import Manifest
from services.inference.encoders.sentence_encoder import open_sentence_encoder
from services.inference.encoders.text_classifier import open_text_classifier
from services.inference.encoders.text_model import TextModel
from tests.integration.node_rig import open_node, spec_of
from tests.integration.tensor_place import make_place
from tests.reference.tiny_encoders import ENCODERS, TEXTS, TOKENS, write_encoder

REFERENCE = Path(__file__).parents[1] / "reference" / "classifiers.json"
GOLDEN: dict[str, Any] = json.loads(REFERENCE.read_text())


async def open_model(folder: Path, name: str, task: str, **options: Any) -> TextModel:
    document = {"name": "tiny", "task": task, "format": "transformers", **options}
    spec = spec_of(Manifest.model_validate(document))
    place = make_place(folder / "cache", threads=1)
    opener = open_text_classifier if task == "text-classification" else open_sentence_encoder
    model = await opener(write_encoder(folder / name, ENCODERS[name]), spec, place)
    await model.warm_up()
    return model


@asynccontextmanager
async def serving(folder: Path, name: str, task: str, **options: Any) -> AsyncIterator[Any]:
    model = await open_model(folder, name, task, **options)
    async with open_node([model]) as rig, triton.InferenceServerClient(rig.address) as client:
        yield client


async def ask(client: Any, texts: tuple[str, ...], **options: Any) -> dict[str, Any]:
    tensor = triton.InferInput("text", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], np.object_))
    result = await client.infer("tiny", [tensor], **options)
    return {each.name: result.as_numpy(each.name) for each in result.get_response().outputs}


@pytest.mark.parametrize("name", ENCODERS)
async def test_scores_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    labels = np.array([label.encode() for label in ENCODERS[name].labels])
    async with serving(tmp_path, name, "text-classification") as client:
        got = await ask(client, TEXTS)
    expected = np.array(GOLDEN[name]["scores"])
    assert np.abs(got["scores"] - expected).max() < 2e-6
    assert got["label"].tolist() == labels[expected.argmax(axis=1)].tolist()


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
async def test_the_mean_of_the_token_vectors_is_that_of_transformers(
    tmp_path: Path, name: str
) -> None:
    async with serving(tmp_path, name, "text-embedding") as client:
        got = await ask(client, TEXTS)
    assert np.abs(got["embedding"] - np.array(GOLDEN[name]["embeddings"])).max() < 5e-6


async def test_company_changes_no_bit_of_a_score(tmp_path: Path) -> None:
    async with serving(tmp_path, "bert", "text-classification", instances=2) as client:
        alone = [await ask(client, (text,)) for text in TEXTS]
        together = await asyncio.gather(*(ask(client, (text,)) for text in TEXTS * 6))
    for place, got in enumerate(together):
        assert got["scores"].tobytes() == alone[place % len(TEXTS)]["scores"].tobytes()


async def test_metadata_classes_and_no_rows(tmp_path: Path) -> None:
    async with serving(tmp_path, "bert", "text-classification") as client:
        metadata = await client.get_model_metadata("tiny")
        none = await ask(client, ())
        wanted = triton.InferRequestedOutput("scores", class_count=2)
        classes = await ask(client, TEXTS[:1], outputs=[wanted])
    outputs = [(each.name, each.datatype, list(each.shape)) for each in metadata.outputs]
    assert outputs == [("scores", "FP32", [-1, 3]), ("label", "BYTES", [-1])]
    assert (none["scores"].shape, none["label"].shape) == ((0, 3), (0,))
    told = [each.decode().split(":") for each in classes["scores"].ravel()]
    ranked = np.argsort(GOLDEN["bert"]["scores"][0])[::-1][:2]
    expected = [(str(place), ENCODERS["bert"].labels[place]) for place in ranked]
    assert [(place, label) for _, place, label in told] == expected


async def test_labels_of_the_manifest_come_before_the_models_own(tmp_path: Path) -> None:
    labels = {"scores": ["schlecht", "mäßig", "gut"]}
    async with serving(tmp_path, "bert", "text-classification", labels=labels) as client:
        got = await ask(client, TEXTS[:1])
    best = np.argmax(GOLDEN["bert"]["scores"][0])
    assert got["label"].tolist() == [labels["scores"][best].encode()]


async def test_declared_texts_warm_it_up(tmp_path: Path) -> None:
    texts = {"datatype": "BYTES", "shape": [2], "values": ["a", "b"]}
    warm = [{"inputs": {"text": texts}, "count": 2}]
    async with serving(tmp_path, "bert", "text-classification", warm_up=warm) as client:
        assert (await ask(client, TEXTS))["label"].shape == (len(TEXTS),)
    wrong = [{"inputs": {"text": {"datatype": "INT32", "shape": [1]}}}]
    with pytest.raises(FailedPrecondition, match=r"warm_up\.0 failed: inputs\.text"):
        await open_model(tmp_path, "bert", "text-classification", warm_up=wrong)


async def test_a_text_is_read_up_to_the_models_length(tmp_path: Path) -> None:
    options = {"classification": {"max_tokens": 6}}
    async with serving(tmp_path, "bert", "text-classification", **options) as client:
        got = await ask(client, ("the film was very good .", "the film was very"))
    assert got["scores"][0].tobytes() == got["scores"][1].tobytes()
    model = await open_model(tmp_path, "roberta", "text-classification")
    assert model._encoder.max_tokens == TOKENS
    await model.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["BertModel"]}, "BertModel, which is no classifier"),
        ({"architectures": []}, "a model without a head"),
        ({"id2label": {"1": "x"}}, "id2label does not count from 0"),
        ({"model_type": "deberta-v2"}, "type 'deberta-v2' are not supported; known are bert"),
        ({"num_attention_heads": None}, r"config\.json has no num_attention_heads"),
    ],
)
async def test_what_is_no_classifier_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = write_encoder(tmp_path, ENCODERS["bert"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    document = {"name": "tiny", "task": "text-classification", "format": "transformers"}
    spec = spec_of(Manifest.model_validate(document))
    with pytest.raises(FailedPrecondition, match=message):
        await open_text_classifier(folder, spec, make_place(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"label": []}, r"labels\.label: there is no such output; scores has labels"),
        ({"scores": ["a"]}, r"labels\.scores: 1 labels for 3 scores"),
    ],
)
async def test_labels_that_fit_nothing_are_refused(
    tmp_path: Path, labels: dict[str, Any], message: str
) -> None:
    with pytest.raises(FailedPrecondition, match=message):
        await open_model(tmp_path, "bert", "text-classification", labels=labels)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
async def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = write_encoder(tmp_path, ENCODERS["bert"])
    (folder / missing).unlink()
    document = {"name": "tiny", "task": "text-classification", "format": "transformers"}
    with pytest.raises(FailedPrecondition, match=missing):
        await open_text_classifier(
            folder, spec_of(Manifest.model_validate(document)), make_place(tmp_path / "cache")
        )
