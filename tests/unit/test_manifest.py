"""Manifests: what is filled in, what is refused and under which name; and the page about them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from mesh.batching_options import BatchingOptions, QueuePolicy
from mesh.errors import InvalidArgument
from mesh.manifest import (
    TASKS_OF_FORMAT,
    ClassificationOptions,
    EmbeddingOptions,
    Format,
    GenerationOptions,
    Manifest,
    Task,
)
from mesh.warm_up_options import DatatypeName, WarmUpRequest, WarmUpTensor

PAGE = Path(__file__).parents[2] / "docs" / "manifest.md"
LLM = {"name": "llm", "task": "text-generation", "format": "gguf"}
EMBEDDER = {"name": "e", "task": "text-embedding", "format": "sentence-transformers"}
TENSOR = {"name": "t", "task": "tensor", "format": "identity"}
ONNX = {"name": "o", "task": "tensor", "format": "onnx"}
SCALAR = {"datatype": "FP32", "shape": []}
CLASSIFIER = {"name": "c", "task": "text-classification", "format": "transformers"}

generation = st.builds(
    GenerationOptions,
    slots=st.integers(1, 256),
    max_context_tokens=st.integers(1000, 1_048_576),
    prefill_chunk_tokens=st.integers(1, 1000),
    weights=st.sampled_from(["int8", "int8-blocks", "int4", "fp32"]),
    max_queue=st.integers(1, 100_000),
)
embedding = st.builds(EmbeddingOptions, max_tokens=st.integers(1, 65_536))
batching = st.builds(
    BatchingOptions,
    max_batch_size=st.integers(1, 4096),
    max_queue_delay_ms=st.floats(0, 1000),
)
tensors = st.builds(
    lambda datatype, shape, fill: WarmUpTensor(datatype=datatype, shape=shape, fill=fill),
    st.sampled_from(get_args(DatatypeName)),
    st.lists(st.integers(0, 8), max_size=5),
    st.sampled_from(["zeros", "ones", "random"]),
)
warm_ups = st.lists(
    st.builds(
        WarmUpRequest,
        inputs=st.dictionaries(st.text(), tensors, min_size=1, max_size=2),
        count=st.integers(1, 1000),
    ),
    max_size=2,
)
labels = st.dictionaries(st.text(), st.lists(st.text(), max_size=3), max_size=2)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
manifests = st.one_of(
    st.builds(lambda n, o: Manifest.model_validate({**LLM, "name": n, "generation": o}),
              names, generation),
    st.builds(
        lambda n, o, b: Manifest.model_validate(
            {**EMBEDDER, "name": n, "embedding": o, "batching": b}
        ),
        names, embedding, batching),
    st.builds(
        lambda n, b, w, i, p: Manifest.model_validate(
            {**ONNX, "name": n, "batching": b, "warm_up": w, "instances": i, "labels": p}
        ),
        names, st.none() | batching, st.none() | warm_ups, st.integers(1, 16), st.none() | labels),
    st.builds(lambda n: Manifest.model_validate({**TENSOR, "name": n}), names),
)  # fmt: skip


def read(document: dict[str, Any]) -> Manifest:
    return Manifest.from_json(json.dumps(document))


@given(manifest=manifests)
def test_a_manifest_comes_back_as_it_was_written(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize("given_options", [{}, {"generation": None}, {"generation": {}}])
def test_defaults_are_spelt_out(given_options: dict[str, Any]) -> None:
    written = json.loads(read({**LLM, **given_options}).to_json())
    assert written["generation"] == GenerationOptions().model_dump()
    assert written["schema_version"] == 1
    assert "embedding" not in written


def test_options_belong_to_their_task() -> None:
    assert read(EMBEDDER).embedding == EmbeddingOptions()
    assert read(EMBEDDER).batching == BatchingOptions()
    assert read(CLASSIFIER).classification == ClassificationOptions()
    assert read(CLASSIFIER).batching == BatchingOptions()
    assert read(TENSOR).generation is None
    assert read(TENSOR).embedding is None
    assert read(ONNX).batching is None
    assert read({**ONNX, "batching": {}}).batching == BatchingOptions()


@pytest.mark.parametrize(("format_", "tasks"), TASKS_OF_FORMAT.items())
@pytest.mark.parametrize("task", get_args(Task))
def test_a_format_serves_its_tasks_and_no_other(
    format_: Format, tasks: tuple[Task, ...], task: Task
) -> None:
    document = {"name": "m", "task": task, "format": format_}
    if task in tasks:
        assert read(document).task == task
    else:
        with pytest.raises(InvalidArgument, match=f"format {format_} serves task {tasks[0]}"):
            read(document)


def test_a_version_that_kept_its_batching_under_embedding_is_still_read() -> None:
    before = {"max_tokens": 128, "max_batch_size": 8, "max_queue_delay_ms": 1.5}
    manifest = read({**EMBEDDER, "embedding": before})
    assert manifest.embedding == EmbeddingOptions(max_tokens=128)
    assert manifest.batching == BatchingOptions(max_batch_size=8, max_queue_delay_ms=1.5)


@pytest.mark.parametrize(
    ("document", "field", "words"),
    [
        ({**LLM, "slots": 1}, "manifest.slots", "unknown key 'slots'; known are backend, batching"),
        ({**LLM, "nmae": "x"}, "manifest.nmae", "unknown key 'nmae'; did you mean 'name'?"),
        (
            {**LLM, "generation": {"slotz": 4}},
            "manifest.generation.slotz",
            "unknown key 'slotz'; did you mean 'slots'?",
        ),
        ({**LLM, "generation": {"slots": 0}}, "manifest.generation.slots", "greater than"),
        ({**LLM, "generation": {"slots": "8"}}, "manifest.generation.slots", "valid integer"),
        ({**LLM, "generation": {"slots": True}}, "manifest.generation.slots", "valid integer"),
        ({**LLM, "generation": []}, "manifest.generation", "object"),
        (
            {**LLM, "generation": {"max_context_tokens": 100}},
            "manifest.generation",
            "prefill_chunk_tokens must not exceed max_context_tokens",
        ),
        ({**LLM, "embedding": {}}, "manifest", "embedding does not apply to task text-generation"),
        ({**TENSOR, "generation": {}}, "manifest", "generation does not apply to task tensor"),
        ({**LLM, "task": "tensor"}, "manifest", "format gguf serves task text-generation"),
        ({**LLM, "task": ["tensor"]}, "manifest.task", "'text-generation'"),
        ({**LLM, "format": "ggml"}, "manifest.format", "'gguf'"),
        ({**LLM, "name": "Big Model"}, "manifest.name", "cannot name a model: up to 63"),
        ({**LLM, "name": "llm\n"}, "manifest.name", "cannot name a model: up to 63"),
        ({**LLM, "schema_version": 2}, "manifest.schema_version", "1"),
        ({"name": "llm"}, "manifest.task", "is missing"),
        (
            {**EMBEDDER, "batching": {"max_queue_delay_ms": -1}},
            "manifest.batching.max_queue_delay_ms",
            "greater than",
        ),
        (
            {**ONNX, "batching": {"default_queue_policy": {"max_queue": 1}}},
            "manifest.batching.default_queue_policy.max_queue",
            "did you mean 'max_queue_rows'?",
        ),
        (
            {**ONNX, "batching": {"priority_levels": 1, "priority_queue_policy": {"1": {"x": 1}}}},
            "manifest.batching.priority_queue_policy.1.x",
            "known are allow_timeout_override",
        ),
        (
            {**ONNX, "warm_up": [{"inputs": {"x": {"datatyp": "FP32", "shape": []}}}]},
            "manifest.warm_up.0.inputs.x.datatyp",
            "did you mean 'datatype'?",
        ),
        (
            {**ONNX, "warm_up": [{"inputs": {"x": {**SCALAR, "fil": "ones"}}}]},
            "manifest.warm_up.0.inputs.x.fil",
            "did you mean 'fill'?",
        ),
        (
            {**ONNX, "warm_up": [{"inputs": {"x": {**SCALAR, "values": [1, 2]}}}]},
            "manifest.warm_up.0.inputs.x",
            "has 2 values, but its shape takes 1",
        ),
        (
            {**ONNX, "warm_up": [{"inputs": {"x": {**SCALAR, "shape": [1 << 20, 1 << 20]}}}]},
            "manifest.warm_up.0.inputs.x",
            "more than",
        ),
        ({**ONNX, "warm_up": [{"inputs": {}}]}, "manifest.warm_up.0.inputs", "at least 1"),
        (
            {**EMBEDDER, "batching": {"ragged": [{"inputs": {"text": 1}}]}},
            "manifest",
            "batching.ragged does not apply to format sentence-transformers",
        ),
        (
            {**ONNX, "batching": {"ragged": [{"inputs": {"x": 0}}]}},
            "manifest.batching.ragged.0.inputs.x",
            "greater than or equal to 1",
        ),
        ({**ONNX, "instances": 17}, "manifest.instances", "less than or equal to 16"),
        ({**ONNX, "backend": "onnx"}, "manifest.backend", "'onnxruntime'"),
        ({**LLM, "instances": 2}, "manifest", "instances does not apply to task text-generation"),
        ({**LLM, "batching": {}}, "manifest", "batching does not apply to task text-generation"),
        ({**EMBEDDER, "labels": {}}, "manifest", "labels does not apply to task text-embedding"),
        ({**TENSOR, "batching": {}}, "manifest", "batching does not apply to format identity"),
        ({**TENSOR, "backend": "torch"}, "manifest", "backend does not apply to format identity"),
    ],
)
def test_what_is_wrong_is_refused_by_name(document: Any, field: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(words)) as refused:
        read(document)
    assert refused.value.field == field
    assert refused.value.message.startswith(f"{field}: ")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"name"', '{"name": "x",}', b"\xff"])
def test_what_is_no_manifest_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Manifest.from_json(text, field="manifest_json")
    assert (refused.value.field or "").startswith("manifest_json")


def test_the_page_has_a_manifest_of_every_kind_with_all_its_options() -> None:
    examples = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    read_examples = [Manifest.from_json(example) for example in examples]
    kinds = [(format_, task) for format_, tasks in TASKS_OF_FORMAT.items() for task in tasks]
    assert [(each.format, each.task) for each in read_examples] == kinds
    for text, manifest in zip(examples, read_examples, strict=True):
        spelt_out = json.loads(manifest.to_json())
        spelt_out.pop("schema_version")
        assert json.loads(text) == spelt_out


def test_the_page_tells_which_format_serves_which_tasks() -> None:
    listed = dict(
        re.findall(r"^\| `([\w-]+)` \| ((?:`[\w-]+`(?:, )?)+) \|$", PAGE.read_text(), re.MULTILINE)
    )
    assert {
        format_: tuple(re.findall(r"[\w-]+", tasks)) for format_, tasks in listed.items()
    } == dict(TASKS_OF_FORMAT)


@pytest.mark.parametrize(
    ("options", "section"),
    [
        (GenerationOptions, "`generation`"),
        (EmbeddingOptions, "`embedding`"),
        (ClassificationOptions, "`classification`"),
        (BatchingOptions, "`batching`"),
        (QueuePolicy, "a queue policy"),
    ],
)
def test_the_page_tells_defaults_and_ranges(options: type[BaseModel], section: str) -> None:
    text = PAGE.read_text()
    table = text[text.index(f"| option of {section} |") :].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE))
    properties = options.model_json_schema()["properties"]
    assert set(rows) == set(properties)
    for name, schema in properties.items():
        bounds = schema.get("enum") or [schema[b] for b in ("minimum", "maximum") if b in schema]
        if bounds:
            default, values = rows[name].split(" | ")[:2]
            assert default.strip("`") == str(schema["default"])
            told = re.findall(
                r"`([\w-]+)`" if "enum" in schema else r"\d+", values.split(", at")[0]
            )
            assert told == [str(bound) for bound in bounds]


def test_every_format_serves_a_task() -> None:
    assert set(TASKS_OF_FORMAT) == set(get_args(Format))
    assert {task for tasks in TASKS_OF_FORMAT.values() for task in tasks} == set(get_args(Task))
