"""What identifies an artefact."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from services.registry.artefact import MAX_FILES, make_artefact

MANIFEST = '{"name": "m", "task": "tensor", "format": "identity"}'
File = tuple[str, str, int]
paths = st.lists(st.from_regex(r"\A[a-z]{1,8}\Z"), unique=True, max_size=6)


@st.composite
def listings(draw: st.DrawFn) -> list[File]:
    digests = st.integers(0, 2**64).map(lambda number: f"{number:064x}")
    return [(path, draw(digests), draw(st.integers(0, 2**40))) for path in draw(paths)]


@given(listings(), st.randoms())
def test_the_digest_does_not_depend_on_how_things_are_written(files: list[File], random) -> None:
    shuffled = list(files)
    random.shuffle(shuffled)
    spaced = json.dumps(dict(reversed(json.loads(MANIFEST).items())), indent=3)
    assert make_artefact(MANIFEST, files) == make_artefact(spaced, shuffled)


def test_defaults_that_are_written_out_change_nothing() -> None:
    short = {"name": "m", "task": "text-generation", "format": "gguf"}
    long = {**short, "schema_version": 1, "generation": {"slots": 8, "weights": "int8"}}
    one, other = (make_artefact(json.dumps(each), []) for each in (short, long))
    assert one.digest == other.digest


@given(listings(), listings())
def test_other_files_are_another_artefact(one: list[File], other: list[File]) -> None:
    same = sorted(one) == sorted(other)
    digests = {make_artefact(MANIFEST, each).digest for each in (one, other)}
    assert len(digests) == (1 if same else 2)


def test_another_manifest_is_another_artefact() -> None:
    short = {"name": "m", "task": "text-generation", "format": "gguf"}
    other = {**short, "generation": {"slots": 9}}
    assert (
        make_artefact(json.dumps(short), []).digest != make_artefact(json.dumps(other), []).digest
    )


def test_the_digest_of_an_artefact_never_changes() -> None:
    """Versions are found by it: another digest would publish everything anew."""
    artefact = make_artefact(MANIFEST, [("weights", "a" * 64, 3)])
    assert artefact.digest == "b7bea983bb82dab52af15e962e4b225009b954f659430e1dc040ce1080e4a854"


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ([("a", "a" * 64, 1), ("a", "b" * 64, 1)], "files"),
        ([("a", "a" * 64, 1), ("a/b", "b" * 64, 1)], "files"),
        ([("a", "a" * 64, 1), ("../b", "b" * 64, 1)], "files[1].path"),
        ([("a", "A" * 64, 1)], "files[0].digest"),
        ([(f"{n}", "a" * 64, 1) for n in range(MAX_FILES + 1)], "files"),
    ],
)
def test_files_that_make_no_artefact_are_refused(files: list[File], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        make_artefact(MANIFEST, files)
    assert refused.value.field == field


def test_an_endless_manifest_is_refused_unread() -> None:
    with pytest.raises(InvalidArgument, match="at most"):
        make_artefact(" " * 100_000 + MANIFEST, [])
