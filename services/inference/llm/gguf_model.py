"""Reads a GGUF file of the Llama family: dimensions, weights, vocabulary, chat template.

The weights come out under GGUF's own names, as float32 matrices `[out, in]`, with the row order
that the rotary embedding of ONNX and of transformers expects (GGUF interleaves the rows of `attn_q`
and `attn_k`). Opening a file takes about two seconds, nearly all of it the vocabulary's arrays;
that is why a compiled model keeps a copy of what it needs.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from mesh.errors import FailedPrecondition
from services.inference.llm.architecture import LlamaConfig, SamplingDefaults, TextRules
from services.inference.llm.quantization import BlockInt8, from_q4_1, from_q8_0, quantize

ARCHITECTURE = "llama"
_ROTATED = ("attn_q.weight", "attn_k.weight")


class GgufModel:
    """One open GGUF file; tensors are read when asked for."""

    def __init__(self, path: Path) -> None:
        self._reader = gguf.GGUFReader(str(path))
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        architecture = self.field("general.architecture")
        if architecture != ARCHITECTURE:
            raise FailedPrecondition(
                f"{path.name} holds a model of architecture {architecture!r}; "
                f"this node runs {ARCHITECTURE!r}"
            )

    def field(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key."""
        field = self._reader.fields.get(key)
        return default if field is None else field.contents()

    def weight(self, name: str) -> NDArray[np.float32]:
        """A tensor in float32, rows in rotary order."""
        tensor = self._tensors[name]
        shape = tuple(int(n) for n in reversed(tensor.shape))
        values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        if name.endswith(_ROTATED):
            values = values[self._rotary_order(name, shape[0])]
        return np.ascontiguousarray(values, dtype=np.float32)

    def weight_int8(self, name: str) -> BlockInt8:
        """A matrix in int8 blocks, as close to the file's own blocks as can be."""
        tensor = self._tensors[name]
        convert = _BLOCK_FORMATS.get(tensor.tensor_type)
        if convert is None:
            return quantize(self.weight(name))
        matrix = convert(tensor.data)
        if name.endswith(_ROTATED):
            return matrix.rows(self._rotary_order(name, matrix.shape[0]))
        return matrix

    def has_weight(self, name: str) -> bool:
        """Whether the file holds this tensor."""
        return name in self._tensors

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
            kv_heads=int(self.field("llama.attention.head_count_kv", heads)),
            head_dim=int(self.field("llama.attention.key_length", hidden // heads)),
            vocabulary=int(self._tensors["token_embd.weight"].shape[1]),
            rope_theta=float(self.field("llama.rope.freq_base", 10_000.0)),
            rms_epsilon=float(self._required("attention.layer_norm_rms_epsilon")),
            trained_context_tokens=int(self._required("context_length")),
            tied_embeddings="output.weight" not in self._tensors,
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
            add_bos=bool(self.field("tokenizer.ggml.add_bos_token", False)),
            end_ids=frozenset(ids[n] for n in ("eos", "eot", "eom") if ids[n] is not None),
            chat_template=self.field("tokenizer.chat_template"),
            sampling=self._sampling_defaults(),
        )

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

    def _required(self, key: str) -> Any:
        value = self.field(f"{ARCHITECTURE}.{key}")
        if value is None:
            raise FailedPrecondition(f"the model file lacks {ARCHITECTURE}.{key}")
        return value


_BLOCK_FORMATS = {
    gguf.GGMLQuantizationType.Q8_0: from_q8_0,
    gguf.GGMLQuantizationType.Q4_1: from_q4_1,
}
