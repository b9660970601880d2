"""Reads a GGUF file of the Llama family: dimensions, weights, vocabulary, chat template.

The weights come out under GGUF's own names, as float32 matrices `[out, in]`, with the row order
that the rotary embedding of ONNX and of transformers expects (GGUF interleaves the rows of `attn_q`
and `attn_k`). Opening a file takes about two seconds, nearly all of it the vocabulary's arrays;
that is why what it says is kept beside the compiled model (`description`).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mesh.errors import FailedPrecondition
from services.inference.llm.architecture import LlamaConfig, SamplingDefaults, TextRules
from services.inference.llm.gguf_tokenizer import tokenizer_from_gguf
from services.inference.llm.quantization import BlockInt8, from_q4_1, from_q8_0, quantize

_ARCHITECTURES = {"llama": True, "qwen2": False}
"""Those that run here, and whether the file has the rows of queries and keys interleaved."""
_ROTATED = ("attn_q.weight", "attn_k.weight")
_ROPE_DIVISORS = "rope_freqs.weight"


_DAMAGE = (ValueError, LookupError, TypeError, OverflowError)
"""What the reader runs into where a file ends too soon or says what cannot be."""


class GgufModel:
    """One open GGUF file; tensors are read when asked for."""

    def __init__(self, path: Path) -> None:
        self._reader = _open(path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._architecture = self.field("general.architecture")
        self._check_architecture(path.name)
        self._stretch = self._linear_stretch()

    def _check_architecture(self, file: str) -> None:
        if self._architecture not in _ARCHITECTURES:
            raise FailedPrecondition(
                f"{file} holds a model of architecture {self._architecture!r}; "
                f"supported are {', '.join(_ARCHITECTURES)}"
            )
        if self._own("expert_count"):
            raise FailedPrecondition(f"{file} holds a mixture of experts, which is not supported")

    def _linear_stretch(self) -> float | None:
        kind = self._own("rope.scaling.type", "none")
        if kind not in ("none", "linear"):
            raise FailedPrecondition(f"rope scaling {kind!r} is not supported; 'linear' is")
        return float(self._own("rope.scaling.factor", 1.0)) if kind == "linear" else None

    def field(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key."""
        field = self._reader.fields.get(key)
        return default if field is None else field.contents()

    def weight(self, name: str) -> NDArray[np.float32]:
        """A tensor in float32, rows in rotary order."""
        if name == _ROPE_DIVISORS and self._stretch is not None:
            return np.full(self.config.head_dim // 2, self._stretch, np.float32)
        tensor = self._tensor(name)
        shape = tuple(int(n) for n in reversed(tensor.shape))
        values = _dequantize(tensor).reshape(shape)
        if self._is_interleaved(name):
            values = values[self._rotary_order(name, shape[0])]
        return np.ascontiguousarray(values, dtype=np.float32)

    def weight_int8(self, name: str) -> BlockInt8:
        """A matrix in int8 blocks, as close to the file's own blocks as can be."""
        tensor = self._tensor(name)
        convert = _BLOCK_FORMATS.get(tensor.tensor_type)
        if convert is None:
            return quantize(self.weight(name))
        matrix = convert(tensor.data)
        if self._is_interleaved(name):
            return matrix.rows(self._rotary_order(name, matrix.shape[0]))
        return matrix

    def has_weight(self, name: str) -> bool:
        """Whether the file holds this tensor, or says it in its metadata."""
        return name in self._tensors or (name == _ROPE_DIVISORS and self._stretch is not None)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the file describes."""
        return tokenizer_from_gguf(self.field)

    @cached_property
    def config(self) -> LlamaConfig:
        """The decoder's dimensions."""
        heads = int(self._required("attention.head_count"))
        hidden = int(self._required("embedding_length"))
        return LlamaConfig(
            layers=int(self._required("block_count")),
            hidden=hidden,
            intermediate=int(self._required("feed_forward_length")),
            heads=heads,
            kv_heads=int(self._own("attention.head_count_kv", heads)),
            head_dim=int(self._own("attention.key_length", hidden // heads)),
            vocabulary=int(self._tensor("token_embd.weight").shape[1]),
            rope_theta=float(self._own("rope.freq_base", 10_000.0)),
            rms_epsilon=float(self._required("attention.layer_norm_rms_epsilon")),
            trained_context_tokens=int(self._required("context_length")),
            tied_embeddings="output.weight" not in self._tensors,
            qkv_bias="blk.0.attn_q.bias" in self._tensors,
        )

    @cached_property
    def text_rules(self) -> TextRules:
        """Special tokens, chat template and sampling defaults."""
        tokens = self._reader.fields["tokenizer.ggml.tokens"]
        ids = {
            name: self.field(f"tokenizer.ggml.{name}_token_id")
            for name in ("bos", "eos", "eot", "eom")
        }

        def token(name: str) -> str:
            return "" if ids[name] is None else str(tokens.contents(ids[name]))

        return TextRules(
            bos_token=token("bos"),
            eos_token=token("eos"),
            bos_id=ids["bos"],
            add_bos=bool(self.field("tokenizer.ggml.add_bos_token", self._begins_with_bos())),
            end_ids=frozenset(ids[n] for n in ("eos", "eot", "eom") if ids[n] is not None),
            chat_template=self.field("tokenizer.chat_template"),
            sampling=self._sampling_defaults(),
        )

    def _begins_with_bos(self) -> bool:
        """What readers do where the file does not say."""
        kind, pre = self.field("tokenizer.ggml.model"), self.field("tokenizer.ggml.pre")
        return bool(kind == "llama" or pre == "llama-bpe")

    def _sampling_defaults(self) -> SamplingDefaults:
        plain = SamplingDefaults()
        return SamplingDefaults(
            temperature=float(self.field("general.sampling.temp", plain.temperature)),
            top_p=float(self.field("general.sampling.top_p", plain.top_p)),
            top_k=int(self.field("general.sampling.top_k", plain.top_k)),
            min_p=float(self.field("general.sampling.min_p", plain.min_p)),
            repetition_penalty=float(
                self.field("general.sampling.penalty_repeat", plain.repetition_penalty)
            ),
        )

    def _rotary_order(self, name: str, rows: int) -> NDArray[np.int64]:
        """Where each row comes from: GGUF's interleaved rotary pairs become halves."""
        heads = self.config.heads if "attn_q" in name else self.config.kv_heads
        return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(rows)

    def _is_interleaved(self, name: str) -> bool:
        return name.endswith(_ROTATED) and _ARCHITECTURES[self._architecture]

    def _tensor(self, name: str) -> Any:
        if name not in self._tensors:
            raise FailedPrecondition(f"the model file lacks the tensor {name}")
        return self._tensors[name]

    def _own(self, key: str, default: Any = None) -> Any:
        """The value of a key of the architecture."""
        return self.field(f"{self._architecture}.{key}", default)

    def _required(self, key: str) -> Any:
        value = self._own(key)
        if value is None:
            raise FailedPrecondition(f"the model file lacks {self._architecture}.{key}")
        return value


def _open(path: Path) -> Any:
    try:
        return gguf.GGUFReader(str(path))
    except _DAMAGE as error:
        raise FailedPrecondition(
            f"{path.name} cannot be read as GGUF; it is cut off or damaged ({error})"
        ) from error


def _dequantize(tensor: Any) -> NDArray[np.float32]:
    try:
        values: NDArray[np.float32] = gguf.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError:
        raise FailedPrecondition(
            f"{tensor.name} has the quantisation {tensor.tensor_type.name}, which is not supported"
        ) from None
    return values


_BLOCK_FORMATS = {
    gguf.GGMLQuantizationType.Q8_0: from_q8_0,
    gguf.GGMLQuantizationType.Q4_1: from_q4_1,
}
