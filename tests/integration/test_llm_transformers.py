"""Hugging Face folders for text generation against transformers' own answers (tests/reference)."""

from __future__ import annotations

import json
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from safetensors.numpy import save_file

from mesh.deployment import VersionSpec
from mesh.errors import FailedPrecondition
from mesh.manifest import Manifest
from services.inference.backends.available import make_backends
from services.inference.backends.backend import BackendSettings
from services.inference.llm.chat_template import ChatMessage, ChatTemplate
from services.inference.llm.gguf_model import GgufModel
from services.inference.llm.metrics import LanguageModelMetrics
from services.inference.llm.model_files import open_model_files
from services.inference.llm.opening import open_language_model
from services.inference.llm.request import GenerationRequest, SamplingRequest
from services.inference.llm.transformers_model import TransformersModel, file_name
from services.inference.llm.vocabulary import Vocabulary
from tests.integration.llm_support import REFERENCE, decoder_of, golden, golden_request
from tests.reference.tiny_decoders import (
    CONFIGS,
    NEW_TOKENS,
    PREFIXES,
    PROMPT,
    make_weights,
    write_folder,
)

if TYPE_CHECKING:
    from pathlib import Path

    from services.inference.llm.model import LoadedLanguageModel

BACKENDS = [
    pytest.param(
        backend,
        marks=pytest.mark.skipif(find_spec(backend) is None, reason=f"{backend} is not here"),
    )
    for backend in ("onnxruntime", "torch")
]


def spec_of(backend: str = "auto", **generation: Any) -> VersionSpec:
    manifest = {
        "name": "folder",
        "task": "text-generation",
        "format": "transformers",
        "backend": backend,
        "generation": generation,
    }
    return VersionSpec(
        version=1, digest="7" * 64, manifest=Manifest.from_json(json.dumps(manifest)), files=()
    )


async def open_folder(
    folder: Path, cache_dir: Path, backend: str = "auto", **generation: Any
) -> LoadedLanguageModel:
    return await open_language_model(
        folder,
        spec_of(backend, **generation),
        cache_dir,
        make_backends(BackendSettings(threads=2)),
        LanguageModelMetrics(CollectorRegistry()),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_logits_are_those_of_the_reference(kind: str, backend: str, tmp_path: Path) -> None:
    expected = np.load(REFERENCE / "tiny_decoders.npz")[f"{kind}.logits"]
    folder = write_folder(kind, tmp_path / "model")
    decoder = decoder_of(folder, tmp_path, context_tokens=128, precision="fp32")
    by_name = {each.name: each for each in make_backends(BackendSettings(threads=1))}
    slots = by_name[backend].open_slots(decoder, 1)
    for count, logits in zip(PREFIXES, expected, strict=True):
        np.testing.assert_allclose(
            slots.prefill(0, PROMPT[:count], 0), logits, atol=2e-4, rtol=1e-4
        )
    slots.close()


@pytest.mark.parametrize("kind", sorted(CONFIGS))
async def test_greedy_tokens_are_those_of_the_reference(kind: str, tmp_path: Path) -> None:
    expected = np.load(REFERENCE / "tiny_decoders.npz")[f"{kind}.greedy"]
    folder = write_folder(kind, tmp_path / "model")
    model = await open_folder(
        folder, tmp_path, weights="fp32", max_context_tokens=128, prefill_chunk_tokens=32
    )
    request = GenerationRequest(
        PROMPT, SamplingRequest(temperature=0), max_tokens=NEW_TOKENS, ignore_eos=True
    )
    answer = await model.generate_text(request)
    await model.close()
    assert answer.token_ids == tuple(expected)


async def test_int8_weights_run_too(tmp_path: Path) -> None:
    folder = write_folder("qwen2", tmp_path / "model")
    model = await open_folder(folder, tmp_path, weights="int8", max_context_tokens=128)
    request = GenerationRequest("text", SamplingRequest(temperature=0), max_tokens=5)
    answer = await model.generate_text(request)
    assert answer.started.prompt_tokens == 5  # <s> and four letters
    assert answer.finished.completion_tokens <= 5
    await model.close()


def test_the_text_s_rules_come_from_the_folder_s_files(tmp_path: Path) -> None:
    folder = write_folder("llama", tmp_path / "model")
    rules = TransformersModel(folder).text_rules
    assert (rules.bos_token, rules.bos_id, rules.add_bos) == ("<s>", 256, True)
    assert rules.end_ids == {257, 258}
    assert (rules.sampling.temperature, rules.sampling.top_p) == (0.7, 0.9)
    messages = [ChatMessage("user", "hello")]
    now = datetime.now
    assert ChatTemplate(rules, now).render(messages) == "<s><user>hello<assistant>"
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    rules = TransformersModel(folder).text_rules
    assert ChatTemplate(rules, now).render(messages) == "hello"


def test_tokens_that_only_the_model_has_add_nothing_to_a_text(tmp_path: Path) -> None:
    model = TransformersModel(write_folder("llama", tmp_path / "model"))
    vocabulary = Vocabulary(model.tokenizer(), model.config.vocabulary)
    assert len(vocabulary) == 272
    assert vocabulary.text_bytes(271) == vocabulary.name_bytes(271) == b""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel.*LlamaForCausalLM, Mistral"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"attention_bias": True}, "attention_bias True is not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "'yarn' is not supported; 'linear' and 'llama3'"),
        ({"hidden_size": None}, "lacks hidden_size"),
    ],
)
def test_what_would_be_answered_wrongly_is_refused_by_name(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = write_folder("llama", tmp_path)
    (folder / "config.json").write_text(json.dumps(CONFIGS["llama"] | changes))
    with pytest.raises(FailedPrecondition, match=reason):
        open_model_files(folder)


def test_weights_that_lack_a_tensor_or_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    folder = write_folder("qwen2", tmp_path)
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**places, "model.norm.weight": "../secret"}}))
    with pytest.raises(FailedPrecondition, match=r"has no \.\./secret"):
        TransformersModel(folder).weight("output_norm.weight")
    del places["model.norm.weight"]
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(FailedPrecondition, match=r"no tensor 'model\.norm\.weight'"):
        TransformersModel(folder).weight("output_norm.weight")


def test_weights_in_types_that_are_not_read_are_refused(tmp_path: Path) -> None:
    folder = write_folder("llama", tmp_path)
    weights = make_weights("llama")
    weights["model.norm.weight"] = np.ones(64, np.int8)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(FailedPrecondition, match="is I8; supported are F32, F16, BF16"):
        TransformersModel(folder).weight("output_norm.weight")


@pytest.mark.model
async def test_the_demo_model_as_a_folder_answers_with_the_same_tokens(
    demo_models: Any, tmp_path: Path
) -> None:
    gguf = GgufModel(demo_models.smollm2_gguf)
    folder = write_as_folder(gguf, tmp_path / "folder")
    assert TransformersModel(folder).config == gguf.config
    model = await open_folder(folder, tmp_path, weights="fp32", max_context_tokens=512)
    for case in golden()["generations"][:3]:
        answer = await model.generate_text(golden_request(case, 24))
        assert list(answer.token_ids) == [t for t in case["greedy_ids"][:24] if t != 2]
    await model.close()


def write_as_folder(gguf: GgufModel, folder: Path) -> Path:
    """What transformers would save of the same model."""
    folder.mkdir()
    config = gguf.config
    names = ["token_embd.weight", "output_norm.weight"]
    for layer in range(config.layers):
        parts = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output")
        parts += ("ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
        names += [f"blk.{layer}.{part}.weight" for part in parts]
    save_file({file_name(n): gguf.weight(n) for n in names}, folder / "model.safetensors")
    said = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.trained_context_tokens,
        "rms_norm_eps": config.rms_epsilon,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(said))
    rules = gguf.text_rules
    gguf.tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(rules.chat_template or "")
    special = {"bos_token": rules.bos_token, "eos_token": rules.eos_token}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder
