"""The documents of the mesh: they come back as written, and contradictions cannot exist."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mesh.deployment import (
    ArtefactFile,
    Assignment,
    Deployment,
    Placement,
    TargetSpec,
    VersionSpec,
    check_paths,
)
from mesh.manifest import Manifest

DIGEST = "0123456789abcdef" * 4
paths = st.lists(st.from_regex(r"[a-c](/[a-c]){0,2}", fullmatch=True), max_size=6)


def spec(version: int, *files: str) -> VersionSpec:
    return VersionSpec(
        version=version,
        digest=f"{version:064x}",
        manifest=Manifest(name="m", task="tensor", format="identity"),
        files=tuple(ArtefactFile(path=path, digest=DIGEST, size_bytes=1) for path in files),
    )


def deployment(**changed: Any) -> Deployment:
    parts: dict[str, Any] = {
        "model": "m",
        "revision": 4,
        "replicas": 2,
        "targets": (TargetSpec(version=1, weight=90), TargetSpec(version=2, weight=10)),
        "aliases": {"champion": 1, "next": 3},
        "versions": {number: spec(number, "a/b", "c") for number in (1, 2, 3)},
    }
    return Deployment(**{**parts, **changed})


def test_a_deployment_comes_back_as_it_was_written() -> None:
    written = deployment()
    assert Deployment.from_json(written.to_json()) == written


def test_a_placement_comes_back_as_it_was_written() -> None:
    written = Placement(node="n", assignments=(Assignment(model="m", spec=spec(1)),))
    assert Placement.from_json(written.to_json()) == written


def test_a_later_writer_may_add_keys() -> None:
    text = deployment().to_json().removesuffix(b"}") + b',"added_later":1}'
    assert Deployment.from_json(text) == deployment()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"targets": ()}, "at least 1"),
        ({"targets": (TargetSpec(version=1, weight=0),)}, "add up to nothing"),
        ({"targets": (TargetSpec(version=1, weight=1),) * 2}, "a target twice"),
        ({"targets": (TargetSpec(version=9, weight=1),)}, r"\[9\] are named but not described"),
        ({"aliases": {"champion": 9}}, r"\[9\] are named but not described"),
        ({"aliases": {"7": 1}}, "cannot name an alias"),
        ({"versions": {1: spec(1), 2: spec(3), 3: spec(3)}}, "another's number"),
        ({"revision": 0}, "greater than"),
        ({"replicas": 0}, "greater than"),
        ({"model": "m/../n"}, "cannot name a model"),
    ],
)
def test_a_deployment_that_contradicts_itself_cannot_be(changed: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        deployment(**changed)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_what_is_no_deployment_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        Deployment.from_json(text)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/etc/passwd",
        "..",
        "../a",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "a\0",
        "x" * 513,
    ],
)
def test_a_path_stays_inside_the_artefact(path: str) -> None:
    with pytest.raises(ValidationError):
        ArtefactFile(path=path, digest=DIGEST, size_bytes=1)


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n"])
def test_a_digest_is_64_hexadecimal_digits(digest: str) -> None:
    with pytest.raises(ValidationError):
        ArtefactFile(path="a", digest=digest, size_bytes=1)


@given(paths=paths)
def test_files_lie_together_unless_one_is_named_twice_or_is_a_folder_of_another(
    paths: list[str],
) -> None:
    clash = len(set(paths)) < len(paths) or any(
        one != other and other.startswith(f"{one}/") for one in paths for other in paths
    )
    if clash:
        with pytest.raises(ValueError, match=r"named twice|a file and a folder"):
            check_paths(paths)
    else:
        check_paths(paths)


def test_a_version_names_no_file_twice() -> None:
    with pytest.raises(ValidationError, match="named twice"):
        spec(1, "a", "a")
    with pytest.raises(ValidationError, match="a file and a folder"):
        spec(1, "a", "a/b")
