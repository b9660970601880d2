"""From what was asked to serve to the document for the mesh."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.deployment import ArtefactFile, VersionSpec
from mesh.errors import FailedPrecondition, InvalidArgument, ModelNotFound
from mesh.manifest import Manifest
from services.registry.artefact import MAX_FILES
from services.registry.deploy import (
    DEFAULT_REPLICAS,
    MAX_WEIGHT,
    build_deployment,
    check_replicas,
    check_targets,
    is_named,
    needed_versions,
    resolve,
)
from services.registry.records import DeploymentRecord, ModelRecord, Target

MANIFEST = Manifest(name="m", task="tensor", format="identity")
VERSIONS = tuple(range(1, 6))
MODEL = ModelRecord("m", "tensor", VERSIONS, {"champion": 2, "next": 5})


def spec(version: int, files: int = 1) -> VersionSpec:
    listed = tuple(
        ArtefactFile(path=f"file-{n}", digest="a" * 64, size_bytes=1) for n in range(files)
    )
    return VersionSpec(version=version, digest="b" * 64, manifest=MANIFEST, files=listed)


def record(*targets: Target) -> DeploymentRecord:
    return DeploymentRecord("m", 7, 2, targets)


selectors = st.one_of(st.sampled_from(VERSIONS), st.sampled_from(["champion", "next"]))
target_lists = st.lists(
    st.builds(Target, selectors, st.integers(0, 100) | st.integers(0, MAX_WEIGHT)),
    min_size=1,
    max_size=5,
    unique_by=lambda target: target.selector,
).filter(lambda targets: 0 < sum(target.weight for target in targets) <= MAX_WEIGHT)


@given(target_lists, st.dictionaries(st.sampled_from("abc"), st.sampled_from(VERSIONS)))
def test_a_deployment_has_all_weight_and_every_version_that_is_named(
    targets: list[Target], more: dict[str, int]
) -> None:
    model = ModelRecord("m", "tensor", VERSIONS, {**MODEL.aliases, **more})
    check_targets(targets)
    asked = record(*targets)
    needed = needed_versions(asked, model)
    built = build_deployment(asked, model, {version: spec(version) for version in needed})
    assert sum(t.weight for t in built.targets) == sum(t.weight for t in targets)
    assert {t.version for t in built.targets} == {resolve(model, t.selector) for t in targets}
    assert built.aliases == model.aliases
    assert set(built.versions) == needed
    assert (built.revision, built.replicas) == (7, 2)


@given(target_lists)
def test_the_same_wish_is_the_same_document_in_any_order(targets: list[Target]) -> None:
    asked, reversed_ = record(*targets), record(*reversed(targets))
    specs = {version: spec(version) for version in sorted(needed_versions(asked, MODEL))}
    other = dict(reversed(specs.items()))
    mirrored = ModelRecord("m", "tensor", VERSIONS, dict(reversed(MODEL.aliases.items())))
    one = build_deployment(asked, MODEL, specs)
    assert one.to_json() == build_deployment(reversed_, mirrored, other).to_json()


def test_an_alias_and_its_version_are_one_target() -> None:
    asked = record(Target("champion", 60), Target(2, 40))
    built = build_deployment(asked, MODEL, {2: spec(2), 5: spec(5)})
    assert [(t.version, t.weight) for t in built.targets] == [(2, 100)]


@pytest.mark.parametrize(
    ("selector", "hint"),
    [("champoin", "did you mean 'champion'?"), ("zzz", "aliases are champion, next"), (9, "is 5")],
)
def test_what_does_not_exist_is_told_what_does(selector: int | str, hint: str) -> None:
    with pytest.raises(ModelNotFound, match=hint) as missing:
        resolve(MODEL, selector)
    assert missing.value.metadata["model"] == f"m@{selector}"


@pytest.mark.parametrize(
    ("targets", "field"),
    [
        ([], "targets"),
        ([Target(1, 0), Target(2, 0)], "targets.weight"),
        ([Target(1, 1), Target(1, 2)], "targets"),
        ([Target(1, 1), Target(2, 1_000_001)], "targets[1].weight"),
        ([Target(1, 600_000), Target("champion", 600_000)], "targets.weight"),
        ([Target(n, 1) for n in range(1, 70)], "targets"),
    ],
)
def test_targets_that_divide_nothing_are_refused(targets: list[Target], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_targets(targets)
    assert refused.value.field == field


def test_replicas_have_a_default_and_an_end() -> None:
    assert check_replicas(0) == DEFAULT_REPLICAS
    assert check_replicas(3) == 3
    with pytest.raises(InvalidArgument):
        check_replicas(1001)


def test_a_document_larger_than_consul_takes_is_refused_before_it_is_kept() -> None:
    model = ModelRecord("m", "tensor", tuple(range(1, 30)), {f"a{n}": n for n in range(1, 30)})
    specs = {n: spec(n, MAX_FILES) for n in range(1, 30)}
    with pytest.raises(FailedPrecondition, match="29 versions of m"):
        build_deployment(record(Target(1, 1)), model, specs)


def test_traffic_follows_an_alias_only_where_a_target_names_it() -> None:
    assert is_named(record(Target("champion", 1)), "champion")
    assert not is_named(record(Target(2, 1)), "champion")
