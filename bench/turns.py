"""Engines that are measured in turns: what disturbs one round disturbs every engine.

Each runs in a process of its own, in an environment of its own, and gives a figure when asked for a
point. What an engine has no way to do it has no figure for. It knows nothing of what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

_SILENT = {"ORT_DISABLE_TELEMETRY": "1", "CI": "true"}
"""ONNX Runtime and OpenVINO report to their makers, but for this."""
Point = tuple[str, int]
"""What is measured, and of how many."""
Missing = tuple[str, str]
"""The name of an engine that cannot be had here, and why."""
SETTLE_S = 0.3
"""Before each figure: the threads of the engine before spin on for a while when they have ended."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: what it is called, and the process that measures it."""

    name: str
    command: tuple[str, ...]


@dataclass
class Engine:
    """An engine's process, and the figures it has given."""

    row: Row
    process: subprocess.Popen[str]
    version: str = ""
    figures: dict[Point, list[float]] = field(default_factory=dict)

    def ask(self, point: Point) -> float | None:
        """One figure; raises `BrokenPipeError` or `EOFError` if the process has died."""
        assert self.process.stdin is not None  # noqa: S101
        self.process.stdin.write(json.dumps(point) + "\n")
        self.process.stdin.flush()
        rate: float | None = self.read()["rate"]
        return rate

    def read(self) -> dict[str, Any]:
        """The next answer."""
        assert self.process.stdout is not None  # noqa: S101
        line = self.process.stdout.readline()
        if not line:
            raise EOFError(f"{self.row.name} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def running(row: Row) -> Iterator[Engine]:
    """The engine's process; its own messages are not shown."""
    pipe = subprocess.PIPE
    with subprocess.Popen(  # noqa: S603 - our own
        row.command,
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **_SILENT},
    ) as process:
        yield Engine(row, process)
        # It ends by itself when nobody can ask any more, and takes its own children along.
        assert process.stdin is not None  # noqa: S101
        process.stdin.close()


def compare(
    rows: Sequence[Row | Missing], points: Sequence[Point], rounds: int
) -> tuple[list[Engine], list[Missing]]:
    """All of them open at once, asked in turns; and those that could not be."""
    engines: list[Engine] = []
    missing = [row for row in rows if not isinstance(row, Row)]
    with ExitStack() as stack:
        for row in rows:
            if isinstance(row, Row):
                engine = stack.enter_context(running(row))
                try:
                    engine.version = engine.read()["version"]
                    engines.append(engine)
                except EOFError:
                    missing.append((row.name, "it does not start"))
        _measure(engines, points, rounds)
    return engines, missing


def name_of(row: Row | Missing) -> str:
    """What it is called, be it there or not."""
    return row.name if isinstance(row, Row) else row[0]


def machine(engines: Sequence[Engine]) -> tuple[str, str]:
    """When and where this was measured, and which versions."""
    versions = ", ".join(sorted({engine.version for engine in engines}))
    place = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    return place, versions


def table(
    engines: Sequence[Engine], missing: Sequence[Missing], titles: dict[Point, str]
) -> list[str]:
    """Markdown: medians, and the noise as half of what lies between the quartiles."""
    lines = [f"| | {' | '.join(titles.values())} |", "|---" * (len(titles) + 1) + "|"]
    for engine in engines:
        cells = (_cell(engine.figures.get(point, [])) for point in titles)
        lines.append(f"| {engine.row.name} | {' | '.join(cells)} |")
    return lines + [
        f"| {name} | missing: {why} " + "| " * len(titles) + "|" for name, why in missing
    ]


def _measure(engines: Sequence[Engine], points: Sequence[Point], rounds: int) -> None:
    """In turns, after a round that does not count."""
    for number in range(rounds + 1):
        for point in points:
            for engine in engines:
                time.sleep(SETTLE_S)
                figure = engine.ask(point)
                if number and figure is not None:
                    engine.figures.setdefault(point, []).append(figure)
        print(f"round {number} of {rounds}", file=sys.stderr)  # noqa: T201 - progress


def _cell(figures: Sequence[float]) -> str:
    if not figures:
        return ""
    middle = statistics.median(figures)
    if len(figures) == 1:
        return f"{middle:.4g}"
    low, _, high = statistics.quantiles(figures, n=4, method="inclusive")
    noise = f" (±{50 * (high - low) / middle:.0f} %)" if high > low else ""
    return f"{middle:.4g}{noise}"
