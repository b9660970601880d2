"""Where a decoder's weights come from, whatever the file's format: matrices by GGUF's names.

Names as in GGUF (`blk.0.attn_q.weight`), values as transformers has them: matrices `[out, in]`, the
rows of queries and keys in halves for the rotary embedding. `rope_freqs.weight`, where there is
one, divides the rotary frequencies; that is how every supported kind of stretching is said.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from services.inference.llm.quantization import BlockInt8

Precision = Literal["int8", "int8-blocks", "int4", "fp32"]
"""What the manifest asks for. A backend that computes in neither says what it does instead."""


class WeightSource(Protocol):
    """An open model file."""

    def weight(self, name: str) -> NDArray[np.float32]:
        """A matrix `[out, in]`, or a vector."""

    def weight_int8(self, name: str) -> BlockInt8:
        """A matrix in int8 blocks."""

    def has_weight(self, name: str) -> bool:
        """Whether there is one of that name."""
