"""Broken messages, made from whole ones: reproducible from a seed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence

RUNS = int(os.environ.get("RINGMESH_FUZZ_RUNS", "200"))
"""Broken messages per test: a few in the suite, as many as one likes by name."""
SEED = int(os.environ.get("RINGMESH_FUZZ_SEED", "20"))

_DICTIONARY = (
    *(b"-1", b"0", b"1e999", b"NaN", b"Infinity", b"18446744073709551616", b"9" * 400),
    *(b"null", b"true", b'""', b"[]", b"{}", b"[[[[[[", b'{"', b"\\ud800", b"\xff\xfe", b"\x00"),
    *(b"FP16", b"BF16", b"BYTES", b"FP99", b"parameters", b"binary_data_size", b"smollm2@1"),
    *(b"shared_memory_region", b"classification", b"sequence_id", b"priority", b"timeout"),
    *(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0a\x00", b"\x80" * 10, b"\x08\x01"),
)

Mutation = Callable[[random.Random, bytearray], None]


def broken(whole: Sequence[bytes], runs: int = RUNS, seed: int = SEED) -> Iterator[bytes]:
    """So many messages, each one of the whole ones with a few things wrong."""
    for run in range(runs):
        dice = random.Random(seed * 1_000_003 + run)
        data = bytearray(dice.choice(whole))
        for _ in range(dice.choice((1, 1, 1, 2, 4, 16))):
            dice.choice(_MUTATIONS)(dice, data)
        yield bytes(data)


def _flip(dice: random.Random, data: bytearray) -> None:
    if data:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def _replace(dice: random.Random, data: bytearray) -> None:
    if data:
        data[dice.randrange(len(data))] = dice.randrange(256)


def _cut(dice: random.Random, data: bytearray) -> None:
    del data[dice.randint(0, len(data)) :]


def _drop(dice: random.Random, data: bytearray) -> None:
    start, end = _span(dice, data)
    del data[start:end]


def _repeat(dice: random.Random, data: bytearray) -> None:
    start, end = _span(dice, data)
    data[start:start] = data[start:end] * dice.choice((1, 2, 50))


def _insert(dice: random.Random, data: bytearray) -> None:
    start = dice.randint(0, len(data))
    data[start:start] = dice.choice(_DICTIONARY)


def _overwrite(dice: random.Random, data: bytearray) -> None:
    start, end = _span(dice, data)
    data[start:end] = dice.choice(_DICTIONARY)


def _span(dice: random.Random, data: bytearray) -> tuple[int, int]:
    start = dice.randint(0, len(data))
    return start, min(len(data), start + dice.choice((1, 2, 4, 8, 32)))


_MUTATIONS: tuple[Mutation, ...] = (_flip, _replace, _cut, _drop, _repeat, _insert, _overwrite)
