"""What the GPU's benchmark computes by itself, and the models that it makes up."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench.gpu import agreement, difference_of, find_models, weight_count
from bench.gpu_node import BenchModels, decode_tokens, rate_while_all_run
from bench.made_up_models import DECODERS, write_decoder
from services.inference.encoders.sentence_config import read_sentence_config
from services.inference.llm.model_files import open_model_files
from services.inference.llm.transformers_config import read_config


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> BenchModels:
    return find_models("tiny", tmp_path_factory.mktemp("models"))


def test_made_up_models_are_what_the_node_opens(models: BenchModels) -> None:
    source = open_model_files(models.decoder)
    rows = source.weight("blk.0.attn_k.weight")
    assert rows.shape == (32, 64)
    assert rows.std() == pytest.approx(1 / math.sqrt(64), rel=0.1)
    assert source.tokenizer().encode("abc").ids
    assert read_sentence_config(models.encoder).hidden == 384


@pytest.mark.parametrize(("size", "millions"), [("135m", 134.5), ("1b", 1235.8)])
def test_the_shapes_are_those_of_known_models(size: str, millions: float, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    write_decoder("tiny", folder)
    (folder / "config.json").write_text(json.dumps(DECODERS[size]))
    assert weight_count(read_config(folder)) / 1e6 == pytest.approx(millions, abs=0.1)


def test_a_rate_counts_only_while_all_streams_run() -> None:
    second = 10**9
    early = [n * second for n in range(11)]
    late = [n * second for n in range(5, 16)]
    assert rate_while_all_run([early, late]) == 2.0
    assert rate_while_all_run([[0, second], [2 * second, 3 * second]]) == pytest.approx(1.0)


def test_the_first_stream_still_runs_when_the_last_has_begun() -> None:
    assert all(decode_tokens(streams, 1) > streams for streams in (1, 8, 32, 128))


def test_answers_are_compared_where_both_say_something() -> None:
    assert agreement([[1, 2, 3, 4]], [[1, 2, 9, 4]]) == 0.5
    assert difference_of([{1: -1.0, 2: -3.0}], [{1: -1.5, 7: -2.0}]) == 0.5
    assert math.isnan(difference_of([{1: -1.0}], [{2: -1.0}]))
