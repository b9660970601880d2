"""A BERT encoder as any backend can take it: its dimensions, and where its weights come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from services.inference.encoders.bert_config import BertConfig


@dataclass(frozen=True, slots=True)
class BertSource:
    """`load_weights` reads the files, which takes a moment; see `bert_weights` for the names."""

    config: BertConfig
    load_weights: Callable[[], Mapping[str, NDArray[Any]]]
