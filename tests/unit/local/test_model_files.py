"""What lies on the disk is recognised by looking at it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mesh.cli.publish_command import read_manifest
from mesh.local.model_files import guess_kind, guess_name, list_files
from mesh.local.problem import LocalProblem
from mesh.local.publish import read_files


def write(folder: Path, *names: str, config: dict[str, Any] | None = None) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_graph(path: Path, *, external: str = "") -> Path:
    weights = numpy_helper.from_array(np.ones((2, 2), "f"), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "xy"]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights]))
    options: dict[str, Any] = {
        "save_as_external_data": bool(external),
        "location": external,
        "size_threshold": 0,
    }
    onnx.save_model(model, path, **(options if external else {}))
    return path


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("DistilBertForSequenceClassification", "text-classification"),
        ("LlamaForCausalLM", "text-generation"),
        ("GPT2LMHeadModel", "text-generation"),
        ("BertModel", "text-embedding"),
        (None, "text-embedding"),
    ],
)
def test_a_hugging_face_folder_says_what_it_is_for(
    tmp_path: Path, architecture: str | None, task: str
) -> None:
    config = {"architectures": [architecture]} if architecture else {}
    folder = write(tmp_path / "some Model", "model.safetensors", "tokenizer.json", config=config)
    manifest = read_manifest(folder, None, None)
    assert (manifest.name, manifest.format) == ("some-model", "transformers")
    assert manifest.task == task


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("modules.json", "config.json", "model.safetensors"), "sentence-transformers"),
        (("net.onnx", "net.onnx.data"), "onnx"),
        (("deep/inside/net.onnx",), "onnx"),
        (("net.gguf", "README.md"), "gguf"),
        (("net.gguf", ".cache/other.gguf"), "gguf"),
    ],
)
def test_a_folder_is_known_by_its_files(tmp_path: Path, names: tuple[str, ...], kind: str) -> None:
    assert guess_kind(write(tmp_path, *names))["format"] == kind


@pytest.mark.parametrize("names", [(), ("a.onnx", "b.onnx"), ("a.onnx", "b.gguf"), ("model.bin",)])
def test_what_is_unknown_or_ambiguous_needs_a_manifest(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    with pytest.raises(LocalProblem, match="--manifest"):
        guess_kind(write(tmp_path, *names))


def test_an_onnx_file_brings_its_external_data(tmp_path: Path) -> None:
    write(tmp_path, "README.md")
    graph = write_graph(tmp_path / "My Net.onnx", external="weights.bin")
    assert [file.path for file in read_files(graph)] == ["My Net.onnx", "weights.bin"]
    manifest = read_manifest(graph, None, None)
    assert (manifest.name, manifest.task, manifest.format) == ("my-net", "tensor", "onnx")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(LocalProblem, match=r"weights\.bin, which is not beside it"):
        list_files(graph)


def test_a_graph_by_itself_is_all_there_is(tmp_path: Path) -> None:
    assert list_files(write_graph(tmp_path / "net.onnx")) == [tmp_path / "net.onnx"]
    (tmp_path / "no.onnx").write_bytes(b"none")
    with pytest.raises(LocalProblem, match=r"no\.onnx is not ONNX"):
        list_files(tmp_path / "no.onnx")


def test_hidden_files_stay_at_home(tmp_path: Path) -> None:
    write(tmp_path, "a", ".git/config", ".b", "c/.d/e", "c/f")
    assert [each.relative_to(tmp_path).as_posix() for each in list_files(tmp_path)] == ["a", "c/f"]


@pytest.mark.parametrize(
    ("name", "guessed"),
    [("Tiny LLM (v2).gguf", "tiny-llm-v2"), ("_x.onnx", "x"), ("a" * 90, "a" * 63), ("b.1", "b.1")],
)
def test_a_name_is_made_of_the_files(tmp_path: Path, name: str, guessed: str) -> None:
    place = tmp_path / name
    if place.suffix in (".gguf", ".onnx"):
        place.touch()
    else:
        place.mkdir()
    assert guess_name(place) == guessed


def test_a_name_of_nothing_usable_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "日.gguf").touch()
    with pytest.raises(LocalProblem, match="--name"):
        read_manifest(tmp_path / "日.gguf", None, None)
