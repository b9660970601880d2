"""How a model is named: `smollm2`, `smollm2@3` or `smollm2@champion`.

One grammar for every door, so that whatever a caller may write in one place works in all of
them. Names are lower case and free of `/`, because they become keys in Consul and names of Envoy
clusters; an alias starts with a letter, so that it can never be taken for a version number. Nothing
here knows which models exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mesh.errors import InvalidArgument

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
ALIAS_PATTERN = r"^[a-z][a-z0-9._-]{0,62}$"
LARGEST_VERSION = 2**32 - 1
LONGEST_QUOTE = 80

_NAME = re.compile(NAME_PATTERN.strip("^$"))
_ALIAS = re.compile(ALIAS_PATTERN.strip("^$"))
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model, and at most one of a version and an alias; with neither, its deployment decides."""

    name: str
    version: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}@{self.version}"
        return f"{self.name}@{self.alias}" if self.alias is not None else self.name


def model_reference(text: str, *, field: str = "model") -> ModelReference:
    """Parses a reference; raises `InvalidArgument` on `field` where it is none."""
    name, at, selector = text.partition("@")
    name = model_name(name, field=field)
    if not at:
        return ModelReference(name)
    chosen = version_selector(selector, field=field)
    if isinstance(chosen, int):
        return ModelReference(name, version=chosen)
    return ModelReference(name, alias=chosen)


def model_name(text: str, *, field: str = "model") -> str:
    """The text itself, if it can name a model."""
    try:
        return check_name(text)
    except ValueError as error:
        raise InvalidArgument(str(error), field=field) from None


def alias_name(text: str, *, field: str = "alias") -> str:
    """The text itself, if it can name an alias."""
    try:
        return check_alias(text)
    except ValueError as error:
        raise InvalidArgument(str(error), field=field) from None


def check_name(text: str) -> str:
    """The text itself, for documents; raises `ValueError` where it cannot name a model."""
    if not text:
        raise ValueError("a model name is missing")
    if _NAME.fullmatch(text) is None:
        raise ValueError(
            f"{_shown(text)} cannot name a model: up to 63 lower-case letters, digits, '.', '_' "
            "and '-', the first a letter or digit"
        )
    return text


def check_alias(text: str) -> str:
    """The text itself, for documents; raises `ValueError` where it cannot name an alias."""
    if _ALIAS.fullmatch(text) is None:
        raise ValueError(
            f"{_shown(text)} cannot name an alias: up to 63 lower-case letters, digits, '.', '_' "
            "and '-', the first a letter"
        )
    return text


def version_selector(text: str, *, field: str = "version") -> int | str:
    """A version's number, or else the name of an alias."""
    if _NUMBER.fullmatch(text) is not None and int(text) <= LARGEST_VERSION:
        return int(text)
    if _ALIAS.fullmatch(text) is not None:
        return text
    raise InvalidArgument(
        f"{_shown(text)} is neither a version number (1, 2, ...) nor an alias", field=field
    )


def _shown(text: str) -> str:
    """What was given, cut so that an absurd name does not become an absurd message."""
    return repr(text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "...")
