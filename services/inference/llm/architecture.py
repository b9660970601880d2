"""What a decoder of the Llama family looks like, apart from its weights.

Plain data that travels from the model file into the graph builder, the backend and the cache of
compiled models. It knows no file format and no runtime.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The dimensions and constants of one decoder; `qkv_bias` is what Qwen2 adds to the family."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    rope_theta: float
    rms_epsilon: float
    trained_context_tokens: int
    tied_embeddings: bool
    qkv_bias: bool = False

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory of one position's keys and values, in float32."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 4


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What the model's file recommends for fields that a request leaves unset.

    A file that recommends nothing gets plain sampling from the whole distribution, which is also
    what OpenAI's interface documents as its default.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class TextRules:
    """How text becomes tokens and when generation ends, as the model's file has it."""

    bos_token: str
    eos_token: str
    bos_id: int | None
    add_bos: bool
    end_ids: frozenset[int]
    chat_template: str | None
    sampling: SamplingDefaults
