"""Text classifiers: `text` BYTES [-1] in, `scores` FP32 [-1, labels] and `label` BYTES [-1] out.

The scores are those of transformers: a softmax over the labels, a sigmoid for each where several
may hold, or the bare numbers of a regression. `label` is the one of the highest score.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mesh.deployment import VersionSpec
from mesh.errors import FailedPrecondition
from mesh.tensor import Tensor, encode_raw
from services.inference.encoders.bert_config import read_encoder, read_head
from services.inference.encoders.bert_graph import SCORES
from services.inference.encoders.text_model import (
    TextModel,
    TextOutputs,
    open_text_model,
)
from services.inference.models.tensor_model import TensorSpec
from services.inference.models.tensor_place import TensorPlace
from services.inference.oip.byte_strings import text_array

LABEL = "label"


async def open_text_classifier(folder: Path, spec: VersionSpec, place: TensorPlace) -> TextModel:
    """Loads the classifier in a folder that transformers has saved.

    Raises:
        FailedPrecondition: the artefact is not a classifier that this node can run.
    """
    options = spec.manifest.classification
    if options is None:
        raise FailedPrecondition(f"the manifest of {spec.manifest.name} has no such options")
    config = await asyncio.to_thread(read_encoder, folder)
    head = await asyncio.to_thread(read_head, folder)
    labels = choose_labels(head.labels, spec.manifest.labels or {})
    return await open_text_model(
        folder,
        spec,
        replace(config, classifier=replace(head, labels=labels)),
        make_outputs(labels),
        place,
        max_tokens=options.max_tokens,
    )


def choose_labels(own: tuple[str, ...], written: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The manifest's names for the scores where it has some, else the model's own.

    Raises:
        FailedPrecondition: it names another output, or not as many labels as there are.
    """
    for output in written:
        if output != SCORES:
            raise FailedPrecondition(
                f"labels.{output}: there is no such output; {SCORES} has labels"
            )
    labels = tuple(written.get(SCORES, own))
    if len(labels) != len(own):
        raise FailedPrecondition(f"labels.{SCORES}: {len(labels)} labels for {len(own)} scores")
    return labels


def make_outputs(labels: tuple[str, ...]) -> TextOutputs:
    """Scores and the label of the highest."""
    names = text_array(labels)

    def render(scores: NDArray[np.float32]) -> tuple[Tensor, ...]:
        best = names[scores.argmax(axis=1)]
        return (
            Tensor(SCORES, "FP32", scores.shape, encode_raw(scores, "FP32")),
            Tensor(LABEL, "BYTES", best.shape, encode_raw(best, "BYTES")),
        )

    specs = (
        TensorSpec(SCORES, "FP32", (-1, len(labels)), labels),
        TensorSpec(LABEL, "BYTES", (-1,)),
    )
    return TextOutputs(specs, render)
