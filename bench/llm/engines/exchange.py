"""How an engine under measurement talks with the benchmark: a line of JSON each way per figure.

Runs in whatever environment the engine has, so it imports the standard library alone. Libraries
write to standard output as they like; answers go out by a descriptor of their own.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PROMPT_TOKENS = 128
DECODE_TOKENS = 32
CONTEXT_TOKENS = 1024
THREADS = 2


class Engine(Protocol):
    """What is measured of each."""

    def decode(self, streams: int) -> float:
        """Tokens per second of so many streams together, behind prompts of 128 tokens."""

    def prefill(self, tokens: int) -> float:
        """Tokens per second of one prompt of so many tokens."""


def prompt(tokens: int) -> list[int]:
    """A prompt that nobody has seen before, of ordinary words."""
    return [random.randrange(1000, 20_000) for _ in range(tokens)]  # noqa: S311 - not a secret


def timed(count: int, work: Callable[[], object]) -> float:
    """Tokens, or whatever it makes so many of, per second."""
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def answer(open_engine: Callable[[], Engine], version: str) -> None:
    """Opens the engine, then answers until the benchmark hangs up."""
    with _answers() as say:
        engine = open_engine()
        say({"version": version})
        for line in sys.stdin:
            what, count = json.loads(line)
            measure = getattr(engine, what, None)
            say({"rate": measure and measure(count)})


@dataclass
class NodeProcess:
    """A node in a further process."""

    address: str
    process: subprocess.Popen[str]

    def ask(self, question: object) -> Any:
        """A line of JSON each way, beside its gRPC."""
        assert self.process.stdin is not None  # noqa: S101
        assert self.process.stdout is not None  # noqa: S101
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextmanager
def running_node(script: Path, *arguments: str) -> Iterator[NodeProcess]:
    """A node in a further process, that ends with the benchmark."""
    command, pipe = [sys.executable, str(script), *arguments], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None  # noqa: S101
            yield NodeProcess(process.stdout.readline().strip(), process)
        finally:
            process.terminate()


@contextmanager
def _answers() -> Iterator[Callable[[dict[str, object]], None]]:
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)

        def say(message: dict[str, object]) -> None:
            out.write(json.dumps(message) + "\n")
            out.flush()

        yield say
