"""Decode and prefill of the demo model: Ringmesh through its gRPC stream, beside its peers.

All engines are open at once, each in a process and an environment of its own, and are measured in
turns with the same two threads: what disturbs one round disturbs every engine. `make bench-llm`
installs the peers the first time (some minutes), prints the table and keeps it in bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from peers import Row, our_rows, peer_rows

from mesh.local.cache import find_cache_dir
from mesh.local.demo_models import obtain_demo_models

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
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
)
ROUNDS = 5
Point = tuple[str, int]


@dataclass
class Engine:
    """An engine's process, and the figures it has given."""

    row: Row
    process: subprocess.Popen[str]
    version: str = ""
    figures: dict[Point, list[float]] = field(default_factory=dict)

    def ask(self, point: Point) -> float:
        """One figure; raises `BrokenPipeError` or `EOFError` if the process has died."""
        assert self.process.stdin is not None  # noqa: S101
        self.process.stdin.write(json.dumps(point) + "\n")
        self.process.stdin.flush()
        return float(self.read()["rate"])

    def read(self) -> dict[str, str]:
        """The next answer."""
        assert self.process.stdout is not None  # noqa: S101
        line = self.process.stdout.readline()
        if not line:
            raise EOFError(f"{self.row.name} ended")
        answer: dict[str, str] = json.loads(line)
        return answer


def main() -> None:
    """Measures, prints, keeps."""
    arguments = _arguments()
    points = [p for p in POINTS if arguments.only in ("all", p[0])]
    gguf = obtain_demo_models(find_cache_dir()).smollm2_gguf
    FOLDER.mkdir(exist_ok=True)
    every: list[Row | tuple[str, str]] = [*our_rows(gguf, FOLDER), *peer_rows(gguf, FOLDER)]
    rows = [row for row in every if arguments.engines in _name(row)]
    missing = [row for row in rows if not isinstance(row, Row)]
    with ExitStack() as stack:
        engines = []
        for row in rows:
            if isinstance(row, Row):
                engine = stack.enter_context(running(row))
                try:
                    engine.version = engine.read()["version"]
                    engines.append(engine)
                except EOFError:
                    missing.append((row.name, "it does not start"))
        measure(engines, points, arguments.rounds)
        table = render(engines, points, missing, arguments.rounds)
    print(table)  # noqa: T201 - the result
    if arguments.only == "all" and not arguments.engines:
        keep(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["all", *dict(POINTS)], default="all")
    parser.add_argument("--engines", default="", help="those with this in their name")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    return parser.parse_args()


@contextlib.contextmanager
def running(row: Row) -> Iterator[Engine]:
    """The engine's process; its own messages are not shown."""
    pipe = subprocess.PIPE
    with subprocess.Popen(  # noqa: S603 - our own
        row.command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    ) as process:
        yield Engine(row, process)
        # It ends by itself when nobody can ask any more, and takes its own children along.
        assert process.stdin is not None  # noqa: S101
        process.stdin.close()


def measure(engines: Sequence[Engine], points: Sequence[Point], rounds: int) -> None:
    """In turns, after a round that does not count."""
    for number in range(rounds + 1):
        for point in points:
            for engine in engines:
                if point[0] == "second_turn" and not engine.row.name.startswith("ringmesh"):
                    continue
                figure = engine.ask(point)
                if number:
                    engine.figures.setdefault(point, []).append(figure)
        print(f"round {number} of {rounds}", file=sys.stderr)  # noqa: T201 - progress


def render(
    engines: Sequence[Engine],
    points: Sequence[Point],
    missing: Sequence[tuple[str, str]],
    rounds: int,
) -> str:
    """Markdown: medians, and the noise as what lies between the quartiles."""
    versions = ", ".join(sorted({engine.version for engine in engines}))
    load = os.getloadavg()[0]
    about = (
        f"`make bench-llm`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, "
        f"{platform.machine()}, load {load:.1f}; SmolLM2-135M, two spinning threads each, prompts "
        f"of 128 tokens never seen before, greedy; medians of {rounds} rounds in turns, tokens/s "
        f"(second turn: how many times sooner than cold its first token comes); in brackets half "
        f"of what lies between the quartiles. {versions}."
    )
    titles = " | ".join(_title(point) for point in points)
    lines = [TITLE, about, "", f"| | {titles} |", "|---" * (len(points) + 1) + "|"]
    for engine in engines:
        cells = (_cell(engine.figures.get(point, [])) for point in points)
        lines.append(f"| {engine.row.name} | {' | '.join(cells)} |")
    lines += [f"| {name} | missing: {why} " + "| " * len(points) + "|" for name, why in missing]
    return "\n".join(lines) + "\n"


def _name(row: Row | tuple[str, str]) -> str:
    return row.name if isinstance(row, Row) else row[0]


def _title(point: Point) -> str:
    what, count = point
    many = f"{count} stream{'s' if count > 1 else ''}" if what == "decode" else f"{count} tokens"
    return f"{what.replace('_', ' ')}, {many}"


def _cell(figures: Sequence[float]) -> str:
    if not figures:
        return ""
    middle = statistics.median(figures)
    if len(figures) == 1:
        return f"{middle:.4g}"
    low, _, high = statistics.quantiles(figures, n=4, method="inclusive")
    return f"{middle:.4g} (±{50 * (high - low) / middle:.0f} %)"


def keep(table: str) -> None:
    """Puts the table in the place of the one before."""
    page = RESULTS.read_text().rstrip() + "\n"
    page = re.sub(rf"{re.escape(TITLE)}\n.*?(?=\n## |\Z)", "", page, flags=re.DOTALL).rstrip()
    RESULTS.write_text(f"{page}\n\n{table}")


if __name__ == "__main__":
    main()
