"""Sentence encoders: `text` BYTES [-1] in, `embedding` FP32 [-1, n] out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mesh.deployment import VersionSpec
from mesh.errors import FailedPrecondition
from mesh.tensor import Tensor, encode_raw
from services.inference.encoders.bert_config import BertConfig, read_encoder
from services.inference.encoders.bert_graph import EMBEDDING
from services.inference.encoders.sentence_config import read_sentence_config
from services.inference.encoders.text_model import (
    TextModel,
    TextOutputs,
    open_text_model,
)
from services.inference.models.tensor_model import TensorSpec
from services.inference.models.tensor_place import TensorPlace


async def open_sentence_encoder(folder: Path, spec: VersionSpec, place: TensorPlace) -> TextModel:
    """Loads the encoder in a folder that sentence-transformers or transformers has saved.

    Raises:
        FailedPrecondition: the artefact is not an encoder that this node can run.
    """
    options = spec.manifest.embedding
    if options is None:
        raise FailedPrecondition(f"the manifest of {spec.manifest.name} has no embedding options")
    is_described = spec.manifest.format == "sentence-transformers"
    read = read_sentence_config if is_described else read_encoder
    config = await asyncio.to_thread(read, folder)
    return await open_text_model(
        folder, spec, config, _outputs(config), place, max_tokens=options.max_tokens
    )


def _outputs(config: BertConfig) -> TextOutputs:
    return TextOutputs((TensorSpec(EMBEDDING, "FP32", (-1, config.hidden)),), _render)


def _render(vectors: NDArray[np.float32]) -> tuple[Tensor, ...]:
    return (Tensor(EMBEDDING, "FP32", vectors.shape, encode_raw(vectors, "FP32")),)
