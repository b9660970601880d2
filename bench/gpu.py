"""What a node does on this machine's GPU, as a share of what the GPU can do at most.

    make bench-gpu EXTRAS=torch,tensorrt         # everything, on the best backend that runs here
    .venv/bin/python -m bench.gpu --tiny         # a minute, on any machine: does it run?
    python -m bench.gpu --made-up 135m           # no network: random weights in the same shapes

It writes down the machine, measures the memory's bandwidth and the matrix units' rate, opens the
demo models on the best backend (TensorRT where it runs, else torch, else ONNX Runtime), holds their
answers against ONNX Runtime on the CPU, and measures decoding, prompts and sentences. The table is
printed and kept in bench/RESULTS.md. Figures, never pass or fail, but for answers that are wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bench.gpu_limits import Limits, measure_limits
from bench.gpu_node import (
    SEQUENCE,
    Bench,
    BenchModels,
    Sizes,
    decode_rate,
    decode_tokens,
    encode_rate,
    greedy,
    likeliest,
    prefill_rate,
    prompt,
)
from bench.made_up_models import DECODERS, write_decoder, write_encoder
from bench.results import keep
from mesh.local.cache import find_cache_dir
from mesh.local.demo_models import obtain_demo_models
from services.inference.llm.architecture import LlamaConfig
from services.inference.llm.model import LoadedLanguageModel
from services.inference.llm.model_files import open_model_files

REFERENCE = "onnxruntime"
LOWEST_COSINE = 0.999
LARGEST_DIFFERENCE = 0.3
"""Of log probabilities: bfloat16 costs some hundredths, a wrong mask or rotation whole units."""
_ENCODER_OPERATIONS = 2 * 10_650_000 * SEQUENCE
"""Per sentence: two for each weight of the six layers and each token."""

FULL = Sizes(streams=(1, 8, 32, 128), tokens=128, prompt_tokens=512, rows=(1, 8, 32, 64), rounds=9)
TINY = Sizes(streams=(1, 4), tokens=8, prompt_tokens=64, rows=(1, 4), rounds=2)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table; `share` is that of the limit."""

    what: str
    value: float
    unit: str
    share: float | None = None
    limit: str = ""


def main() -> None:
    """Runs everything and writes the table."""
    options = read_options()
    sizes = TINY if options.tiny else FULL
    limits = measure_limits(tiny=options.tiny)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        models = find_models(options.made_up, work)
        page = asyncio.run(measure(models, work, sizes, options.backend, limits))
    print(page)  # noqa: T201 - the result
    if not options.tiny:
        keep(page)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small sizes, and nothing is written")
    parser.add_argument("--made-up", choices=DECODERS, help="random weights, of this size")
    parser.add_argument("--backend", default="auto", help="another than the best one")
    return parser.parse_args()


def find_models(made_up: str | None, work: Path) -> BenchModels:
    """The demo models, fetched at the first time; or models that are made up here and now."""
    if made_up is not None:
        decoder = write_decoder(made_up, work / "decoder")
        title = f"Random weights in the shapes of a Llama of {made_up} and of MiniLM-L6"
        return BenchModels(title, decoder, "transformers", write_encoder(work / "encoder"))
    demo = obtain_demo_models(find_cache_dir())
    title = "SmolLM2-135M and MiniLM-L6"
    return BenchModels(title, demo.smollm2_gguf.parent, "gguf", demo.minilm_folder)


async def measure(
    models: BenchModels, work: Path, sizes: Sizes, backend: str, limits: Limits
) -> str:
    """The page."""
    bench = Bench(models, work, sizes, backend)
    reference = Bench(models, work, TINY, REFERENCE)
    rows = await measure_language_model(bench, reference, models, sizes, limits)
    rows += await measure_encoder(bench, reference, sizes, limits)
    return render(rows, limits, models.title, bench.refusals())


async def measure_language_model(
    bench: Bench, reference: Bench, models: BenchModels, sizes: Sizes, limits: Limits
) -> list[Row]:
    """Its answers against the reference's, decoding, prompts."""
    expected_model = await reference.language_model()
    expected, expected_odds = await answers(expected_model)
    await expected_model.close()
    model = await bench.language_model()
    found, odds = await answers(model)
    difference = difference_of(expected_odds, odds)
    if not difference < LARGEST_DIFFERENCE:
        sys.exit(f"the tokens are wrong: log probabilities differ by {difference} on the average")
    config = open_model_files(models.decoder).config
    weights = weight_count(config)
    width = 2 if limits.is_gpu else 4
    rows = [
        Row(f"greedy tokens as on {REFERENCE} ({model.backend})", agreement(expected, found), ""),
        Row("log probabilities of likely tokens differ by", difference, ""),
    ]
    for streams in sizes.streams:
        rate = await decode_rate(model, streams, sizes.tokens)
        positions = 16 + decode_tokens(streams, sizes.tokens) / 2
        read = weights * width + streams * positions * kv_bytes(config, width)
        most = streams * limits.bytes_per_s / read
        rows.append(Row(f"decode, {streams} streams", rate, "tokens/s", rate / most, "bandwidth"))
    rate = await prefill_rate(model, sizes.prompt_tokens, sizes.rounds)
    most = limits.operations_per_s / (2 * weights)
    what = f"prefill, prompts of {sizes.prompt_tokens}"
    rows.append(Row(what, rate, "tokens/s", rate / most, "matrix rate"))
    await model.close()
    return rows


async def answers(model: LoadedLanguageModel) -> tuple[list[list[int]], list[dict[int, float]]]:
    """What it says to some prompts, and what it thinks likely after them."""
    numbers = range(4)
    said = [await greedy(model, number, TINY.tokens) for number in numbers]
    return said, [await likeliest(model, number) for number in numbers]


async def measure_encoder(
    bench: Bench, reference: Bench, sizes: Sizes, limits: Limits
) -> list[Row]:
    """Its vectors against the reference's, and sentences."""
    sentences = [prompt(number, SEQUENCE) for number in range(4)]
    expected_encoder = await reference.encoder()
    expected = np.stack(expected_encoder.encode(sentences, SEQUENCE))
    expected_encoder.close()
    encoder = await bench.encoder()
    found = np.stack(encoder.encode(sentences, SEQUENCE))
    cosine = float((expected * found).sum(axis=1).min())
    if cosine < LOWEST_COSINE:
        sys.exit(f"the vectors are wrong: their cosine to the reference's is {cosine}")
    rows = [Row(f"cosine to {REFERENCE}'s vectors ({encoder.opening.backend})", cosine, "")]
    for count in sizes.rows:
        rate = encode_rate(encoder, count, sizes.rounds)
        share = rate * _ENCODER_OPERATIONS / limits.operations_per_s
        what = f"encode, {count} sentences of {SEQUENCE} tokens"
        rows.append(Row(what, rate, "sentences/s", share, "matrix rate"))
    encoder.close()
    return rows


def weight_count(config: LlamaConfig) -> int:
    """The weights that a step reads: all layers and the head, but no table to look tokens up."""
    heads = config.heads + 2 * config.kv_heads
    attention = config.hidden * config.head_dim * (heads + config.heads)
    layer = attention + 3 * config.hidden * config.intermediate
    return config.layers * layer + config.vocabulary * config.hidden


def kv_bytes(config: LlamaConfig, width: int) -> int:
    """Keys and values of one position."""
    return 2 * config.layers * config.kv_heads * config.head_dim * width


def agreement(expected: list[list[int]], found: list[list[int]]) -> float:
    """The share of tokens before the first one that differs; numbers are rounded elsewhere."""
    shares = []
    for one, other in zip(expected, found, strict=True):
        same = next(
            (i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one)
        )
        shares.append(same / len(one))
    return float(np.mean(shares))


def difference_of(expected: list[dict[int, float]], found: list[dict[int, float]]) -> float:
    """The mean difference of the log probabilities of tokens that both name; no number for none."""
    both = [
        abs(odds[token] - others[token])
        for odds, others in zip(expected, found, strict=True)
        for token in odds.keys() & others.keys()
    ]
    return float(np.mean(both)) if both else float("nan")


def render(rows: list[Row], limits: Limits, title: str, refusals: list[str]) -> str:
    """The page."""
    about = (
        f"`make bench-gpu`, {datetime.now(UTC):%Y-%m-%d}, {limits.device}, {limits.library}, "
        f"{platform.machine()}; measured limits: {limits.bytes_per_s / 1e9:.4g} GB/s, "
        f"{limits.operations_per_s / 1e12:.4g} TFLOP/s. {title}."
    )
    lines = [
        "## On a GPU" if limits.is_gpu else "## The GPU's benchmark on a CPU",
        about,
        *(f"Not here: {refusal}" for refusal in refusals),
        "",
        "| | | share of |",
        "|---|---|---|",
    ]
    for row in rows:
        share = "" if row.share is None else f"{row.share:.1%} {row.limit}"
        lines.append(f"| {row.what} | {row.value:.4g} {row.unit} | {share} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
