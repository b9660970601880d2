"""What an answer's text must look like, and what keeps to it. Pure, and without a grammar library.

A `Constraint` is the caller's words; a `Matcher` is one answer's place in the compiled grammar. The
kinds are called what the request's fields are called, so that a refusal names the right one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mesh.errors import InvalidArgument

LARGEST_SOURCE_CHARACTERS = 65536
LARGEST_CHOICES = 4096


class ConstraintKind(Enum):
    """The languages in which a constraint can be written."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    GRAMMAR = "grammar"
    CHOICE = "choice"


_WORDS = {
    ConstraintKind.JSON_SCHEMA: "JSON schema",
    ConstraintKind.JSON_OBJECT: "JSON object",
    ConstraintKind.REGEX: "regular expression",
    ConstraintKind.GRAMMAR: "grammar",
    ConstraintKind.CHOICE: "choice",
}


@dataclass(frozen=True, slots=True)
class Constraint:
    """All of the answer's text is to be of this form; `sources` are one text, or the choices."""

    kind: ConstraintKind
    sources: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The one text of any kind but a choice."""
        (source,) = self.sources
        return source

    def __str__(self) -> str:
        return f"the {_WORDS[self.kind]}"


class Matcher(Protocol):
    """One answer's place in its grammar."""

    @property
    def is_finished(self) -> bool:
        """Whether the text is complete and nothing can follow it."""

    def allowed(self) -> NDArray[np.int64]:
        """The tokens that may come next, ascending; end tokens among them where the text may end.

        Raises:
            InvalidArgument: the grammar has become too complex to follow.
        """

    def take(self, token: int) -> None:
        """The answer goes on with one of the allowed tokens."""


def check_constraint(constraint: Constraint) -> None:
    """Refuses what needs no grammar library to be refused."""
    match constraint.kind:
        case ConstraintKind.JSON_OBJECT:
            return
        case ConstraintKind.CHOICE:
            _check_choices(constraint)
        case _ if not constraint.source.strip():
            raise refusal(constraint, "is empty")
    if sum(map(len, constraint.sources)) > LARGEST_SOURCE_CHARACTERS:
        raise refusal(constraint, f"has more than {LARGEST_SOURCE_CHARACTERS} characters")


def _check_choices(constraint: Constraint) -> None:
    if not 1 <= len(constraint.sources) <= LARGEST_CHOICES:
        raise refusal(
            constraint, f"takes 1 to {LARGEST_CHOICES} texts, not {len(constraint.sources)}"
        )
    if not all(constraint.sources):
        raise refusal(constraint, "has an empty text")


def refusal(constraint: Constraint, why: str) -> InvalidArgument:
    """The error that says what is wrong with a constraint."""
    return InvalidArgument(f"{constraint}: {why}", field=constraint.kind.value)
