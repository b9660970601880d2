"""What a device can do at most: bytes per second out of its memory, operations per second.

Measured, not looked up: two large copies and a large product, each several times, the best taken.
A model that reads its weights once for each step cannot be faster than the first allows, nor a long
prompt than the second.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """A device and its limits, in half precision where it has that."""

    device: str
    library: str
    is_gpu: bool
    bytes_per_s: float
    operations_per_s: float


def measure_limits(*, tiny: bool) -> Limits:
    """The first GPU that torch can use, or the CPU."""
    torch = importlib.import_module("torch")
    is_gpu = bool(torch.cuda.is_available())
    device = "cuda" if is_gpu else "cpu"
    return Limits(
        device=torch.cuda.get_device_name()
        if is_gpu
        else f"CPU, {torch.get_num_threads()} threads",
        library=f"torch {torch.__version__}",
        is_gpu=is_gpu,
        bytes_per_s=_bytes_per_s(torch, device, tiny=tiny),
        operations_per_s=_operations_per_s(torch, device, tiny=tiny),
    )


def _bytes_per_s(torch: Any, device: str, *, tiny: bool) -> float:
    size = 1 << (26 if tiny else 31 if device == "cuda" else 29)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _seconds(torch, device, lambda: target.copy_(source))


def _operations_per_s(torch: Any, device: str, *, tiny: bool) -> float:
    size = 8192 if device == "cuda" else 512 if tiny else 2048
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    # Of random numbers: on a GPU, those of equal ones cost less power and so less time.
    one = torch.randn((size, size), dtype=dtype, device=device)
    other, out = torch.randn_like(one), torch.empty_like(one)
    seconds: float = _seconds(torch, device, lambda: torch.mm(one, other, out=out))
    return 2 * size**3 / seconds


def _seconds(torch: Any, device: str, run: Callable[[], Any]) -> float:
    """The shortest time of a run, of which enough are made that a clock can tell."""
    settle = torch.cuda.synchronize if device == "cuda" else _nothing
    repeats = 20 if device == "cuda" else 3
    best = float("inf")
    for _ in range(ROUNDS):
        run()
        settle()
        began = time.perf_counter()
        for _ in range(repeats):
            run()
        settle()
        best = min(best, (time.perf_counter() - began) / repeats)
    return best


def _nothing() -> None:
    pass
