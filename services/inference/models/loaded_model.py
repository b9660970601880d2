"""What all loaded model versions share, whatever they can be asked."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

Key = tuple[str, int]
"""A model and a version."""


class LoadedModel(Protocol):
    """A version that can answer."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def version(self) -> int:
        """The version's number."""

    @property
    def backend(self) -> str:
        """The engine it runs on."""

    @property
    def memory_bytes(self) -> int:
        """What it takes."""

    async def warm_up(self) -> None:
        """Answers once, so that the first caller does not pay for it."""

    async def close(self) -> None:
        """Ends what is running and frees the memory."""


@runtime_checkable
class HasRemark(Protocol):
    """A version that does not run quite as its manifest asks for, and says how."""

    @property
    def remark(self) -> str:
        """Empty, if there is nothing to say."""


def remark_of(loaded: LoadedModel) -> str:
    """What it has to say of itself."""
    return loaded.remark if isinstance(loaded, HasRemark) else ""
