"""Where torch computes and in what numbers, and its errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from services.inference.backends.backend import (
    BackendFailed,
    BackendLost,
    BackendSettings,
    BackendUnavailable,
    Obstacle,
)
from services.inference.backends.torch.backend import NAME

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BFLOAT16_GPU = (8, 0)
"""The first compute capability that has it."""


@dataclass(frozen=True, slots=True)
class Place:
    """A device, and the type of weights and activations on it."""

    device: Any
    dtype: Any

    @property
    def number(self) -> str:
        """The type's name in a manifest: `bf16`."""
        return next(name for name, dtype in _DTYPES.items() if dtype is self.dtype)

    @property
    def is_gpu(self) -> bool:
        """Whether runs are asynchronous, and memory on the host is another."""
        return bool(self.device.type == "cuda")

    def put(self, values: NDArray[Any]) -> Any:
        """Weights on the device, in the type to compute in."""
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A buffer on the host that the device can copy from and to by itself."""
        return torch.zeros(shape, dtype=dtype, pin_memory=self.is_gpu)


def has_gpu() -> bool:
    """Whether there is one that this build of torch can use."""
    return bool(torch.cuda.is_available())


def choose_place(compute: str, settings: BackendSettings, usual: str = "bf16") -> Place:
    """The `usual` on a GPU that has it and float32 on a CPU, unless a precision is asked for."""
    if not has_gpu():
        # For the process: torch has one pool of threads for all its models.
        torch.set_num_threads(settings.thread_count)
        return Place(torch.device("cpu"), _DTYPES.get(compute, torch.float32))
    # For the process. On Hopper it would come first; it plans anew for each shape, which takes
    # longer than a run, and it has given wrong answers under masks.
    torch.backends.cuda.enable_cudnn_sdp(False)
    has_bfloat16 = torch.cuda.get_device_capability() >= _BFLOAT16_GPU
    best = _DTYPES[usual] if has_bfloat16 else torch.float16
    return Place(torch.device("cuda", 0), _DTYPES.get(compute, best))


@contextmanager
def opening() -> Iterator[None]:
    """Loading a model: what the device has against it is no reason to give up the model."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise BackendUnavailable(NAME, Obstacle.OUT_OF_MEMORY, str(error)) from error
    except (torch.AcceleratorError, BackendFailed) as error:  # no kernels for this GPU, say
        raise BackendUnavailable(NAME, Obstacle.BUILD_FAILED, str(error)) from error


@contextmanager
def running() -> Iterator[None]:
    """A run: whatever the library says of it is the failure of that run."""
    try:
        with torch.inference_mode():
            yield
    except torch.AcceleratorError as error:
        # The device's context is gone with it: every further call would fail the same way.
        raise BackendLost(f"{NAME}: {error}") from error
    except RuntimeError as error:
        raise BackendFailed(f"{NAME}: {error}") from error


def tensor_bytes(*tensors: Any) -> int:
    """What tensors take."""
    return sum(int(each.nbytes) for each in tensors)
