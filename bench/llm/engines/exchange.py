"""How an engine under measurement talks with the benchmark: a line of JSON each way per figure.

Runs in whatever environment the engine has, so it imports the standard library alone. Libraries
write to standard output as they like; answers go out by a descriptor of their own.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

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


def timed(tokens: int, work: Callable[[], object]) -> float:
    """Tokens per second."""
    started = time.perf_counter()
    work()
    return tokens / (time.perf_counter() - started)


def answer(open_engine: Callable[[], Engine], version: str) -> None:
    """Opens the engine, then answers until the benchmark hangs up."""
    with _answers() as say:
        engine = open_engine()
        say({"version": version})
        for line in sys.stdin:
            what, count = json.loads(line)
            say({"rate": getattr(engine, what)(count)})


@contextmanager
def _answers() -> Iterator[Callable[[dict[str, object]], None]]:
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)

        def say(message: dict[str, object]) -> None:
            out.write(json.dumps(message) + "\n")
            out.flush()

        yield say
