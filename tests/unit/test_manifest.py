"""Manifests: what is filled in, what is refused and under which name; and the page about them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from mesh.manifest import (
    TASK_OF_FORMAT,
    EmbeddingOptions,
    Format,
    GenerationOptions,
    Manifest,
)

PAGE = Path(__file__).parents[2] / "docs" / "manifest.md"
LLM = {"name": "llm", "task": "text-generation", "format": "gguf"}
EMBEDDER = {"name": "e", "task": "text-embedding", "format": "sentence-transformers"}
TENSOR = {"name": "t", "task": "tensor", "format": "identity"}

generation = st.builds(
    GenerationOptions,
    slots=st.integers(1, 256),
    max_context_tokens=st.integers(1000, 1_048_576),
    prefill_chunk_tokens=st.integers(1, 1000),
    weights=st.sampled_from(["int8", "fp32"]),
    max_queue=st.integers(1, 100_000),
)
embedding = st.builds(
    EmbeddingOptions,
    max_tokens=st.integers(1, 65_536),
    max_batch_size=st.integers(1, 4096),
    max_queue_delay_ms=st.floats(0, 1000),
)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
manifests = st.one_of(
    st.builds(lambda n, o: Manifest.model_validate({**LLM, "name": n, "generation": o}),
              names, generation),
    st.builds(lambda n, o: Manifest.model_validate({**EMBEDDER, "name": n, "embedding": o}),
              names, embedding),
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
    assert read(TENSOR).generation is None
    assert read(TENSOR).embedding is None


@pytest.mark.parametrize(
    ("document", "field", "words"),
    [
        ({**LLM, "slots": 1}, "manifest.slots", "unknown key 'slots'; known are embedding, format"),
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
        ({**LLM, "format": "onnx"}, "manifest.format", "'gguf'"),
        ({**LLM, "name": "Big Model"}, "manifest.name", "pattern"),
        ({**LLM, "name": "llm\n"}, "manifest.name", "pattern"),
        ({**LLM, "schema_version": 2}, "manifest.schema_version", "1"),
        ({"name": "llm"}, "manifest.task", "required"),
        (
            {**EMBEDDER, "embedding": {"max_queue_delay_ms": -1}},
            "manifest.embedding.max_queue_delay_ms",
            "greater than",
        ),
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


def test_the_page_has_a_manifest_of_every_format_with_all_its_options() -> None:
    examples = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    read_examples = [Manifest.from_json(example) for example in examples]
    assert [each.format for each in read_examples] == list(get_args(Format))
    for text, manifest in zip(examples, read_examples, strict=True):
        spelt_out = json.loads(manifest.to_json())
        spelt_out.pop("schema_version")
        assert json.loads(text) == spelt_out


@pytest.mark.parametrize("options", [GenerationOptions, EmbeddingOptions])
def test_the_page_tells_defaults_and_ranges(options: type) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE))
    for name, schema in options.model_json_schema()["properties"].items():  # type: ignore[attr-defined]
        default, values = rows[name].split(" | ")[:2]
        assert default.strip("`") == str(schema["default"])
        bounds = schema.get("enum") or [schema["minimum"], schema["maximum"]]
        assert re.findall(r"[a-z]*\d+", values.split(",")[0] if "to" in values else values) == [
            str(bound) for bound in bounds
        ]


def test_every_format_serves_a_task() -> None:
    assert set(TASK_OF_FORMAT) == set(get_args(Format))
