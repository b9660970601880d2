"""Sentences per second of the demo encoder: Ringmesh through its gRPC, beside its peers.

The peers run the same weights as a plain ONNX graph, in float32 but for OpenVINO's own choice; the
last column tells what that costs. All have two threads that spin, and are asked in turns for one
batch after the other. `make bench-llm EXTRAS=openvino` prints the table and keeps it in
bench/RESULTS.md; without the extra our own rows on OpenVINO are missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from bench.llm.peers import ENGINES, OPENVINO, CannotBeHad, obtain
from bench.plain_bert import write_plain_bert
from bench.results import keep
from bench.turns import Missing, Point, Row, compare, machine, name_of, table
from mesh.local.cache import find_cache_dir
from mesh.local.demo_models import obtain_demo_models
from services.inference.encoders.bert_weights import load_bert_weights
from services.inference.encoders.sentence_config import read_sentence_config

TITLE = "## Encoders on a CPU, beside their peers"
FOLDER = Path(__file__).parents[1] / ".ringmesh-bench"
TITLES: dict[Point, str] = {
    ("equal", 1): "1 of 128 tokens",
    ("equal", 8): "8 of 128 tokens",
    ("equal", 32): "32 of 128 tokens",
    ("mixed", 32): "32 of 6 to 128 tokens",
    ("distance", 32): "largest distance of a vector",
}
ROUNDS = 5
SENTENCES = 32
TOKENS = 128
SHORTEST = 6
SPECIAL_TOKENS = 2
"""Before and behind each sentence."""
Sentences = list[dict[str, object]]


def main() -> None:
    """Measures, prints, keeps."""
    arguments = _arguments()
    model = obtain_demo_models(find_cache_dir()).minilm_folder
    work = FOLDER / "models" / "minilm"
    work.mkdir(parents=True, exist_ok=True)
    prepare(model, work)
    every = [*our_rows(model, work), *peer_rows(model, work)]
    rows = [row for row in every if arguments.engines in name_of(row)]
    engines, missing = compare(rows, list(TITLES), arguments.rounds)
    place, versions = machine(engines)
    about = (
        f"`make bench-llm`, {place}; all-MiniLM-L6-v2, two spinning threads each, sentences/s of "
        f"requests with so many sentences, one after the other; medians of {arguments.rounds} "
        f"rounds in turns, in brackets half of what lies between the quartiles. Making tokens is "
        f"within the time of rows that begin with texts, and outside that of rows that begin with "
        f"ids. Distances are to the plain graph's vectors of single sentences. {versions}."
    )
    page = "\n".join([TITLE, about, "", *table(engines, missing, TITLES)])
    print(page)  # noqa: T201 - the result
    if not arguments.engines:
        keep(page)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engines", default="", help="those with this in their name")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    return parser.parse_args()


def our_rows(model: Path, work: Path) -> list[Row | Missing]:
    """Through the node's gRPC on each of its backends, and the runner below it."""
    paths = str(model), str(work), str(FOLDER / "compiled")
    return [
        Row("ringmesh, texts by gRPC", _command("node", *paths, "onnxruntime", "auto")),
        Row("its bare runner, ids", _command("bare", *paths)),
        *(_on_openvino(precision, paths) for precision in ("fp32", "bf16")),
    ]


def _on_openvino(precision: str, paths: Sequence[str]) -> Row | Missing:
    name = f"ringmesh on openvino in {precision}, texts by gRPC"
    if importlib.util.find_spec("openvino") is None:
        return name, "the extra `openvino` is not installed"
    return Row(name, _command("node", *paths, "openvino", precision))


def peer_rows(model: Path, work: Path) -> list[Row | Missing]:
    """The peers, on the plain graph."""
    rows: list[Row | Missing] = [
        Row(f"onnxruntime, {source}", _command("onnxruntime", str(model), str(work), source))
        for source in ("texts", "ids")
    ]
    for name, precision in (("float32", "f32"), ("as it comes", "default")):
        title = f"openvino {name}, ids"
        try:
            python = obtain(OPENVINO, FOLDER)
            rows.append(Row(title, _command("openvino", str(work), precision, python=python)))
        except CannotBeHad as error:
            rows.append((title, str(error)))
    return rows


def prepare(model: Path, work: Path) -> None:
    """Writes what all of them are given: the plain graph, sentences, and the vectors of some."""
    config = read_sentence_config(model)
    graph = write_plain_bert(load_bert_weights(model, config.family), config, work)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    words = [word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha()]
    mixed = [round(n) for n in np.linspace(SHORTEST, TOKENS, SENTENCES)]
    random.Random(1).shuffle(mixed)  # noqa: S311 - not a secret
    lengths = {"equal": [TOKENS] * SENTENCES, "mixed": mixed}
    sentences = {what: make_sentences(tokenizer, sorted(words), of) for what, of in lengths.items()}
    (work / "sentences.json").write_text(json.dumps(sentences))
    np.save(work / "vectors.npy", expect(graph, sentences["mixed"]))


def make_sentences(tokenizer: Tokenizer, words: Sequence[str], lengths: Sequence[int]) -> Sentences:
    """Sentences of so many tokens, of words that are one token each."""
    rng = random.Random(len(words) + sum(lengths))  # noqa: S311 - not a secret
    texts = [" ".join(rng.choices(words, k=length - SPECIAL_TOKENS)) for length in lengths]
    found = [tokenizer.encode(text).ids for text in texts]
    assert [len(ids) for ids in found] == list(lengths)  # noqa: S101
    return [{"text": text, "ids": ids} for text, ids in zip(texts, found, strict=True)]


def expect(graph: Path, sentences: Sentences) -> np.ndarray:
    """Their vectors, each computed by itself, without padding."""
    session = onnxruntime.InferenceSession(str(graph))
    rows = [np.array([each["ids"]], np.int64) for each in sentences]
    vectors = [
        session.run(None, {"input_ids": row, "attention_mask": np.ones_like(row)})[0]
        for row in rows
    ]
    return np.concatenate(vectors)


def _command(engine: str, *arguments: str, python: str = sys.executable) -> tuple[str, ...]:
    return (python, str(ENGINES / f"minilm_{engine}_engine.py"), *arguments)


if __name__ == "__main__":
    main()
