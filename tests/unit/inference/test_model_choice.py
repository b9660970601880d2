"""Which version a request means, and what is said where none can answer."""

from __future__ import annotations

import pytest

from mesh.errors import InvalidArgument, ModelNotFound, ModelNotReady
from services.inference.models.choice import choose_version, requested_version
from services.inference.models.state import ModelState, ModelStatus

S = ModelState


@pytest.mark.parametrize(
    ("name", "version", "routed", "expected"),
    [
        ("m", "", None, ("m", None)),
        ("m", "3", None, ("m", 3)),
        ("m@3", "", None, ("m", 3)),
        ("m@3", "3", None, ("m", 3)),
        ("m", "", "4", ("m", 4)),
        ("m", "", "", ("m", None)),
        ("m", "3", "4", ("m", 3)),
        ("m@3", "", "4", ("m", 3)),
        ("m@champion", "", "4", ("m", 4)),
        ("m", "champion", "4", ("m", 4)),
    ],
)
def test_the_message_counts_before_the_route(
    name: str, version: str, routed: str | None, expected: tuple[str, int | None]
) -> None:
    assert requested_version(name, version, routed) == expected


@pytest.mark.parametrize(
    ("name", "version", "field"),
    [
        ("", "", "model_name"),
        ("m@3", "4", "model_version"),
        ("m@champion", "3", "model_version"),
        ("m", "-1", "model_version"),
        ("m", "1.5", "model_version"),
    ],
)
def test_what_cannot_be_meant_is_refused(name: str, version: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        requested_version(name, version, "1")
    assert refused.value.field == field


@pytest.mark.parametrize("name", ["No Name", "m@", "m@champion", "x" * 500])
def test_names_that_no_model_has_are_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound) as refused:
        requested_version(name, "", None)
    assert len(refused.value.message) < 400


def held(*states: ModelState) -> list[ModelStatus]:
    return [ModelStatus("m", n, state, f"reason {n}") for n, state in enumerate(states, start=1)]


def test_the_newest_ready_version_answers() -> None:
    statuses = held(S.READY, S.READY, S.LOADING, S.UNLOADED)
    assert choose_version(statuses, "m", None).version == 2
    assert choose_version(statuses, "m", 1).version == 1


def test_without_a_ready_one_the_newest_that_may_become_so_is_named() -> None:
    with pytest.raises(ModelNotReady, match="'m@2' is LOADING: reason 2"):
        choose_version(held(S.UNAVAILABLE, S.LOADING, S.UNLOADED), "m", None)


@pytest.mark.parametrize("state", [S.UNAVAILABLE, S.LOADING, S.DRAINING, S.UNLOADED])
def test_an_unready_version_says_its_state(state: ModelState) -> None:
    with pytest.raises(ModelNotReady) as refused:
        choose_version(held(state), "m", 1)
    assert refused.value.metadata == {"model": "m@1", "state": state.name}


@pytest.mark.parametrize(("version", "named"), [(None, "'n'"), (7, "'n@7'")])
def test_what_was_never_here_is_not_found(version: int | None, named: str) -> None:
    with pytest.raises(ModelNotFound, match=named):
        choose_version(held(S.READY), "n", version)
