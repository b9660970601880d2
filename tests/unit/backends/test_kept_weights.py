"""What is said of weights that a backend keeps otherwise, and what a decoder is counted with."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry

from mesh.deployment import VersionSpec
from mesh.manifest import Manifest
from mesh.model_options import GenerationOptions
from services.inference.backends.backend import (
    BackendSettings,
    BackendUnavailable,
    Device,
    Obstacle,
)
from services.inference.backends.kept_weights import (
    KeptWeights,
    expected_weights,
    precision_remark,
)
from services.inference.backends.onnxruntime_backend import OnnxRuntimeBackend
from services.inference.backends.tensorrt.gpu import Architecture
from services.inference.backends.tensorrt.precision import decoder_form, kept_weights
from services.inference.llm.decoder import Decoder
from services.inference.llm.metrics import LanguageModelMetrics
from services.inference.llm.opening import open_language_model
from services.inference.llm.request import GenerationRequest, SamplingRequest
from services.inference.llm.weights import Precision
from services.inference.models.needs import decoder_bytes
from tests.reference.tiny_decoders import PROMPT, write_folder
from tests.unit.tensorrt.toy_decoder import CONFIG, ToyWeights

CPU = OnnxRuntimeBackend(BackendSettings(threads=1))
ADA = Architecture(8, 9)


class OnGpu:
    """A backend that comes before others, and keeps everything in one way."""

    name = "gpu"

    def __init__(self, kept: KeptWeights, obstacle: Obstacle | None = None) -> None:
        self._kept, self._obstacle = kept, obstacle

    def check(self):
        if self._obstacle is not None:
            raise BackendUnavailable(self.name, self._obstacle, "as the test has it")
        return Device.GPU

    def kept_weights(self, wanted, compute):
        return self._kept

    def open_slots(self, decoder, slots):
        raise NotImplementedError

    def open_graph(self, graph):
        raise NotImplementedError


def test_a_manifest_may_ask_for_all_that_a_decoder_knows() -> None:
    options = GenerationOptions.model_fields["weights"].annotation
    assert get_args(options) == get_args(Precision)


@pytest.mark.parametrize("wanted", get_args(Precision))
def test_an_engine_keeps_what_is_asked_for_or_says_what_it_keeps(wanted: Precision) -> None:
    kept = kept_weights(decoder_form(wanted, "auto", ADA), wanted)
    said = precision_remark("tensorrt", wanted, "auto", kept)
    assert said == ("computes in bf16, as precision is auto" if wanted == "fp32" else "")


def test_a_precision_that_the_manifest_names_needs_no_remark() -> None:
    kept = kept_weights(decoder_form("fp32", "fp16", ADA), "fp32")
    assert precision_remark("tensorrt", "fp32", "fp16", kept) == ""


def test_four_bits_take_about_half_of_eight() -> None:
    options = GenerationOptions(slots=1, max_context_tokens=16, prefill_chunk_tokens=16)
    large = dataclasses.replace(CONFIG, layers=40, hidden=640, intermediate=960)
    four, eight, plain = (
        decoder_bytes(large, options, kept_weights(decoder_form(wanted, "fp16", ADA), wanted))
        for wanted in ("int4", "int8", "fp32")
    )
    assert four < 0.6 * eight < 0.4 * plain


@pytest.mark.parametrize("wanted", get_args(Precision))
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_counted_is_what_the_cpu_takes(
    tmp_path: Path, wanted: Precision, *, tied: bool
) -> None:
    # Wide enough for the matrices to matter, and for whole pages between them not to.
    config = dataclasses.replace(CONFIG, vocabulary=8192, tied_embeddings=tied)
    options = GenerationOptions(
        slots=4, max_context_tokens=256, prefill_chunk_tokens=16, weights=wanted
    )
    decoder = Decoder("toy", "d" * 64, config, 256, wanted, tmp_path, partial(Wide, config))
    counted = decoder_bytes(config, options, CPU.kept_weights(wanted, "auto"))
    slots = CPU.open_slots(decoder, options.slots)
    pages = 65_536 * 8 * (config.layers + 1)
    assert slots.memory_bytes - pages < counted < 1.05 * slots.memory_bytes
    slots.close()


class Wide(ToyWeights):
    def __init__(self, config) -> None:
        self._config = config

    def weight(self, name):
        values = super().weight(name)
        if name in ("token_embd.weight", "output.weight"):
            return values.repeat(-(-self._config.vocabulary // len(values)), axis=0)[
                : self._config.vocabulary
            ]
        return values


def test_a_model_is_counted_as_the_backend_keeps_it_that_it_opens_on() -> None:
    gpu = KeptWeights("bf16", weight_bytes=2)
    later = dataclasses.replace(gpu, form="int4", opens_at_once=False)
    assert expected_weights((CPU, OnGpu(gpu)), "auto", "int8", "auto") == gpu
    assert expected_weights((CPU, OnGpu(gpu)), "onnxruntime", "int8", "auto") == (
        CPU.kept_weights("int8", "auto")
    )
    away = OnGpu(gpu, Obstacle.NO_GPU)
    assert expected_weights((CPU, away), "gpu", "int8", "auto") == CPU.kept_weights("int8", "auto")
    # One that builds its engine first serves on another, and takes no more afterwards.
    assert expected_weights((CPU, OnGpu(later)), "auto", "fp32", "auto") == (
        CPU.kept_weights("fp32", "auto")
    )
    assert expected_weights((OnGpu(later),), "auto", "int4", "auto") == later
    assert expected_weights((away,), "auto", "int4", "auto") is None


class NeverAsked(OnGpu):
    """A backend whose library takes seconds and memory to be asked anything."""

    name = "behind"

    def check(self):
        return Device.CPU

    def kept_weights(self, wanted, compute):
        raise AssertionError("it will not be opened")


def test_a_backend_behind_the_one_that_opens_is_not_asked() -> None:
    behind = NeverAsked(KeptWeights("bf16", weight_bytes=2))
    assert expected_weights((CPU, behind), "auto", "int8", "auto") == (
        CPU.kept_weights("int8", "auto")
    )


async def test_four_bits_on_a_cpu_are_eight_and_the_model_says_so(tmp_path: Path) -> None:
    folder = write_folder("llama", tmp_path / "model")

    async def answer(weights: str) -> tuple[str, tuple[int, ...]]:
        manifest = {
            "name": "tiny",
            "task": "text-generation",
            "format": "transformers",
            "generation": {"weights": weights, "max_context_tokens": 128, "slots": 1},
        }
        model = await open_language_model(
            folder,
            VersionSpec(
                version=1, digest="7" * 64, manifest=Manifest.from_json(json.dumps(manifest)),
                files=(),
            ),
            tmp_path,
            (CPU,),
            LanguageModelMetrics(CollectorRegistry()),
        )  # fmt: skip
        greedy = SamplingRequest(temperature=0)
        text = await model.generate_text(GenerationRequest(PROMPT[:20], greedy, max_tokens=8))
        await model.close()
        return model.remark, text.token_ids

    said, four = await answer("int4")
    assert said == "weights are int8 instead of int4 (onnxruntime: unsupported_precision)"
    assert await answer("int8") == ("", four)
