"""Decode and prefill of the demo model: Ringmesh through its gRPC stream, beside its peers.

All engines are open at once, each in a process and an environment of its own, and are measured in
turns with the same two threads. `make bench-llm` installs the peers the first time (some minutes),
prints the table and keeps it in bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.llm.peers import our_rows, peer_rows
from bench.results import keep
from bench.turns import Point, compare, machine, name_of, table
from mesh.local.cache import find_cache_dir
from mesh.local.demo_models import obtain_demo_models

TITLE = "## Language models on a CPU, beside their peers"
FOLDER = Path(__file__).parents[2] / ".ringmesh-bench"
POINTS = (
    ("decode", 1),
    ("decode", 4),
    ("decode", 8),
    ("decode", 16),
    ("prefill", 128),
    ("prefill", 512),
    ("second_turn", 600),
    ("cost", 1),
    ("cost", 4),
    ("cost", 8),
    ("cost", 16),
    ("client", 1),
    ("client", 16),
)
NAMES = {"cost": "scheduler and stream"}
STREAMS = ("decode", "cost", "client")
ROUNDS = 5


def main() -> None:
    """Measures, prints, keeps."""
    arguments = _arguments()
    titles = {point: _title(point) for point in POINTS if arguments.only in ("all", point[0])}
    gguf = obtain_demo_models(find_cache_dir()).smollm2_gguf
    FOLDER.mkdir(exist_ok=True)
    every = [*our_rows(gguf, FOLDER), *peer_rows(gguf, FOLDER)]
    rows = [row for row in every if arguments.engines in name_of(row)]
    engines, missing = compare(rows, list(titles), arguments.rounds)
    place, versions = machine(engines)
    about = (
        f"`make bench-llm`, {place}; SmolLM2-135M, two spinning threads each, prompts "
        f"of 128 tokens never seen before, greedy; medians of {arguments.rounds} rounds in turns, "
        f"tokens/s (second turn: how many times sooner than cold its first token comes; "
        f"scheduler and stream: by how many per cent a node, its client beside it, is slower than "
        f"the bare loop over the slots in its process; "
        f"client: the per cent of the processor that asking and reading takes beside the node). "
        f"Nodes are asked by a bare socket, which takes less of their cores than grpcio's client. "
        f"In brackets half of what lies between the quartiles. {versions}."
    )
    page = "\n".join([TITLE, about, "", *table(engines, missing, titles)])
    print(page)  # noqa: T201 - the result
    if arguments.only == "all" and not arguments.engines:
        keep(page)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["all", *dict(POINTS)], default="all")
    parser.add_argument("--engines", default="", help="those with this in their name")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    return parser.parse_args()


def _title(point: Point) -> str:
    what, count = point
    unit = "stream" if what in STREAMS else "token"
    many = f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{NAMES.get(what, what).replace('_', ' ')}, {many}"


if __name__ == "__main__":
    main()
