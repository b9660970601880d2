"""What is wrong with a document that somebody wrote, in words that say what to write instead.

It reads pydantic's account of a validation and the document's model, and knows no document.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import ValidationError


def make_refusal(error: ValidationError, document: type[BaseModel], field: str) -> InvalidArgument:
    """The first thing wrong; `field` is what the whole document is called.

    An unknown key comes before all else: it may be what is missing elsewhere, misspelt.
    """
    errors = error.errors(include_url=False)
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    place = tuple(str(part) for part in first["loc"])
    path = ".".join((field, *place))
    if first["type"] == "extra_forbidden":
        return InvalidArgument(f"{path}: {_unknown_key(place, document)}", field=path)
    if first["type"] == "missing":
        return InvalidArgument(f"{path}: is missing", field=path)
    return InvalidArgument(f"{path}: {first['msg'].removeprefix('Value error, ')}", field=path)


def _unknown_key(place: tuple[str, ...], document: type[BaseModel]) -> str:
    *section, key = place
    known = sorted(_model_at(section, document).model_fields)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"unknown key {key!r}; {hint}"


def _model_at(section: Iterable[str], document: type[BaseModel]) -> type[BaseModel]:
    """The model of a section; the numbers and names inside lists and maps lead nowhere else."""
    for part in section:
        if part in document.model_fields:
            document = next(_models_in(document.model_fields[part].annotation), document)
    return document


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
