"""GGUF files of several architectures and quantisations, written here from known weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest

from mesh.errors import FailedPrecondition
from services.inference.llm.gguf_model import GgufModel
from services.inference.llm.transformers_model import TransformersModel, file_name
from tests.reference.tiny_decoders import CONFIGS, make_weights, write_folder

if TYPE_CHECKING:
    from pathlib import Path

KINDS = gguf.GGMLQuantizationType


def write_gguf(
    path: Path,
    kind: str,
    *,
    architecture: str,
    quantization: KINDS = KINDS.F32,
    **said: Any,
) -> Path:
    """The tiny decoder of that kind as llama.cpp's converter writes it."""
    config = CONFIGS[kind]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    for key, value in said.items():
        getattr(writer, key)(value)
    names = ["token_embd.weight", "output_norm.weight", "output.weight"]
    parts = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output")
    parts += ("ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
    for layer in range(config["num_hidden_layers"]):
        names += [f"blk.{layer}.{part}.{end}" for part in parts for end in ("weight", "bias")]
    weights = make_weights(kind)
    for name in names:
        if file_name(name) in weights:
            values = weights[file_name(name)].astype(np.float32)
            is_rotated = "attn_q.weight" in name or "attn_k.weight" in name
            if architecture == "llama" and is_rotated:
                values = interleaved(values, config, name)
            is_matrix = values.ndim == 2
            stored = quantization if is_matrix else KINDS.F32
            data = gguf.quantize(values, stored)
            writer.add_tensor(name, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def interleaved(values: np.ndarray, config: dict[str, Any], name: str) -> np.ndarray:
    key = "num_attention_heads" if "attn_q" in name else "num_key_value_heads"
    rows, columns = values.shape
    halves = values.reshape(config[key], 2, rows // config[key] // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


@pytest.mark.parametrize(
    ("kind", "architecture"), [("llama", "llama"), ("mistral", "llama"), ("qwen2", "qwen2")]
)
def test_a_file_says_what_the_folder_of_the_same_model_says(
    kind: str, architecture: str, tmp_path: Path
) -> None:
    file = GgufModel(write_gguf(tmp_path / "m.gguf", kind, architecture=architecture))
    folder = TransformersModel(write_folder(kind, tmp_path / "folder"))
    context = 512  # GGUF knows nothing of a sliding window
    assert file.config.trained_context_tokens == context
    for field in ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocabulary", "rope_theta"):
        assert getattr(file.config, field) == getattr(folder.config, field)
    assert file.config.qkv_bias == folder.config.qkv_bias == (kind == "qwen2")
    assert file.config.tied_embeddings == folder.config.tied_embeddings
    for name in ("token_embd.weight", "blk.1.attn_q.weight", "blk.0.attn_k.weight"):
        np.testing.assert_array_equal(file.weight(name), folder.weight(name))
    assert file.has_weight("blk.0.attn_v.bias") == (kind == "qwen2")


@pytest.mark.parametrize(
    ("quantization", "tolerance"),
    [
        (KINDS.F16, 1e-3),
        (KINDS.BF16, 1e-2),
        (KINDS.Q8_0, 2e-2),
        (KINDS.Q5_1, 5e-2),
        (KINDS.Q5_0, 8e-2),
        (KINDS.Q4_1, 1e-1),
        (KINDS.Q4_0, 2e-1),
    ],
)
def test_each_quantisation_is_read(quantization: KINDS, tolerance: float, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    file = GgufModel(write_gguf(path, "llama", architecture="llama", quantization=quantization))
    exact = make_weights("llama")
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight", "output.weight"):
        np.testing.assert_allclose(file.weight(name), exact[file_name(name)], atol=tolerance)
        codes = file.weight_int8(name)
        assert codes.shape == exact[file_name(name)].shape


def test_a_stretched_context_is_read_or_refused_by_name(tmp_path: Path) -> None:
    linear = write_gguf(
        tmp_path / "linear.gguf",
        "llama",
        architecture="llama",
        add_rope_scaling_type=gguf.RopeScalingType.LINEAR,
        add_rope_scaling_factor=4.0,
    )
    file = GgufModel(linear)
    assert file.has_weight("rope_freqs.weight")
    np.testing.assert_array_equal(file.weight("rope_freqs.weight"), np.full(8, 4.0))
    yarn = write_gguf(
        tmp_path / "yarn.gguf",
        "llama",
        architecture="llama",
        add_rope_scaling_type=gguf.RopeScalingType.YARN,
    )
    with pytest.raises(FailedPrecondition, match="'yarn' is not supported; 'linear' is"):
        GgufModel(yarn)


def test_other_models_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="architecture 'gemma'; supported are llama, qwen"):
        GgufModel(write_gguf(tmp_path / "a.gguf", "llama", architecture="gemma"))
    experts = write_gguf(tmp_path / "b.gguf", "llama", architecture="llama", add_expert_count=8)
    with pytest.raises(FailedPrecondition, match="mixture of experts"):
        GgufModel(experts)


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    file = GgufModel(write_gguf(tmp_path / "m.gguf", "llama", architecture="llama"))
    with pytest.raises(FailedPrecondition, match=r"lacks the tensor blk\.7\.attn_q"):
        file.weight("blk.7.attn_q.weight")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused_by_name(share: float, tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", "llama", architecture="llama")
    content = whole.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(content[: max(24, int(len(content) * share))])
    with pytest.raises(FailedPrecondition, match=r"^cut.gguf cannot be read as GGUF"):
        GgufModel(cut)
