"""Reads a folder that transformers saved for text generation, without transformers or torch.

Weights lie in `model.safetensors`, or in several files with an index; each is read when asked for
and given out under GGUF's name for it. float32, float16 and bfloat16 are read.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from mesh.errors import FailedPrecondition
from services.inference.llm.architecture import LlamaConfig, TextRules
from services.inference.llm.quantization import BLOCK, BlockInt8, quantize
from services.inference.llm.transformers_config import read_config, read_json, rope_divisors
from services.inference.llm.transformers_text import read_text_rules, read_tokenizer

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ROPE_DIVISORS = "rope_freqs.weight"
_READABLE = ("F32", "F16", "BF16")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
"""Naming it makes numpy know it, which safetensors relies on."""

_OUTER = MappingProxyType(
    {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
)
_INNER = MappingProxyType(
    {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
)
_BLOCK_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


class TransformersModel:
    """One folder; tensors are read when asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.config: LlamaConfig = read_config(folder)
        self._divisors = rope_divisors(folder, self.config.head_dim)
        self._files: dict[str, Any] = {}

    def weight(self, name: str) -> NDArray[np.float32]:
        """A tensor in float32."""
        if name == _ROPE_DIVISORS and self._divisors is not None:
            return self._divisors
        given = file_name(name)
        try:
            file = self._file(self._places[given])
            kind = file.get_slice(given).get_dtype()
            if kind not in _READABLE:
                raise FailedPrecondition(f"{given} is {kind}; supported are {', '.join(_READABLE)}")
            values: NDArray[Any] = file.get_tensor(given)
        except (KeyError, SafetensorError) as error:
            raise FailedPrecondition(f"the weights have no tensor {given!r}") from error
        return np.ascontiguousarray(values, dtype=np.float32)

    def weight_int8(self, name: str) -> BlockInt8:
        """A matrix rounded to int8 blocks."""
        weight = self.weight(name)
        if weight.shape[1] % BLOCK:
            raise FailedPrecondition(
                f"{file_name(name)} has rows of {weight.shape[1]}, which do not divide into blocks "
                f"of {BLOCK}: ask for fp32 weights"
            )
        return quantize(weight)

    def has_weight(self, name: str) -> bool:
        """Whether the files hold this tensor, or the configuration says it."""
        if name == _ROPE_DIVISORS:
            return self._divisors is not None
        return file_name(name) in self._places

    def tokenizer(self) -> Tokenizer:
        """The folder's tokenizer."""
        return read_tokenizer(self._folder)

    @cached_property
    def text_rules(self) -> TextRules:
        """Special tokens, chat template and sampling defaults."""
        return read_text_rules(self._folder, self.tokenizer())

    @cached_property
    def _places(self) -> dict[str, str]:
        """Which file each tensor is in."""
        index = read_json(self._folder, _INDEX).get("weight_map")
        if isinstance(index, dict):
            return index
        return dict.fromkeys(self._file(_WEIGHTS).keys(), _WEIGHTS)

    def _file(self, name: str) -> Any:
        if name not in self._files:
            path = self._folder / name
            # An index is a stranger's file: it must not lead out of the artefact.
            if Path(name).name != name or not path.is_file():
                raise FailedPrecondition(f"the artefact has no {name}")
            try:
                self._files[name] = safe_open(path, framework="numpy")
            except SafetensorError as error:
                raise FailedPrecondition(f"{name} cannot be read: {error}") from error
        return self._files[name]


def file_name(name: str) -> str:
    """What transformers calls the tensor that GGUF calls so."""
    if name in _OUTER:
        return _OUTER[name]
    found = _BLOCK_NAME.fullmatch(name)
    if found is None:
        raise KeyError(name)
    layer, part, kind = found.groups()
    return f"model.layers.{layer}.{_INNER[part]}.{kind}"
