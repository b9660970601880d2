"""What a reference means, by the deployments and the ready versions alone."""

import pytest

from mesh.catalog import Instance, KvEntry
from mesh.deployment import DEPLOYMENTS_PREFIX, Deployment, TargetSpec, VersionSpec
from mesh.errors import InvalidArgument, ModelNotFound, ModelNotReady, RingmeshError
from mesh.manifest import Manifest
from mesh.reference import ModelReference, model_reference
from services.gateway.directory import Directory, parse_reference, require_task
from services.gateway.directory_watch import DirectoryWatch

NOT_READY = "no node has it ready; the repository index and `ringmesh show m` say why"


def deployment(model: str = "m", weights: dict[int, int] | None = None, **aliases: int):
    weights = weights or {1: 100}
    manifest = Manifest(name=model, task="tensor", format="identity")
    numbers = {*weights, *aliases.values()}
    return Deployment(
        model=model,
        revision=1,
        replicas=1,
        targets=tuple(TargetSpec(version=v, weight=w) for v, w in weights.items()),
        aliases=aliases,
        versions={
            v: VersionSpec(version=v, digest="0" * 64, manifest=manifest, files=()) for v in numbers
        },
    )


def directory(*ready: str, nodes: int = 1, **models: Deployment) -> Directory:
    models = models or {"m": deployment(weights={1: 90, 2: 10}, champion=1, next=3)}
    addresses = {f"node-{n}": "127.0.0.1:1" for n in range(nodes)}
    return Directory(models, dict.fromkeys(ready, ("127.0.0.1:1",)), addresses)


def outcome(view: Directory, text: str) -> str:
    try:
        view.resolve(model_reference(text))
    except RingmeshError as error:
        return f"{type(error).__name__}: {error.message}"
    return "ready"


@pytest.mark.parametrize(
    ("ready", "text", "expected"),
    [
        (["m@1"], "m", "ready"),
        (["m@2"], "m", "ready"),  # one target is enough: the route knows which
        (["m@3"], "m", f"ModelNotReady: model 'm' is LOADING: {NOT_READY}"),
        (["m@1"], "m@1", "ready"),
        (["m@1"], "m@2", f"ModelNotReady: model 'm@2' is LOADING: {NOT_READY}"),
        (["m@1"], "m@champion", "ready"),
        (["m@1"], "m@next", f"ModelNotReady: model 'm@next' is LOADING: {NOT_READY}"),
        (["m@1"], "m@9", "ModelNotFound: model 'm@9' does not exist; deployed versions: 1, 2, 3"),
        (["m@1"], "m@x", "ModelNotFound: model 'm@x' does not exist; aliases: champion, next"),
        (["m@1"], "n", "ModelNotFound: model 'n' does not exist; models: m"),
    ],
)
def test_a_reference_is_ready_or_says_why_not(ready, text, expected) -> None:
    assert outcome(directory(*ready), text) == expected


def test_without_nodes_nothing_is_loading() -> None:
    assert "UNAVAILABLE: no inference node is up" in outcome(directory(nodes=0), "m")


def test_without_models_the_hint_says_so() -> None:
    assert outcome(Directory(), "m").endswith("there are no models")


def test_many_models_are_not_all_listed() -> None:
    names = [f"model-{i:02}" for i in range(30)]
    text = outcome(Directory({name: deployment(name) for name in names}), "m")
    assert "model-07, ..." in text
    assert "model-08" not in text


def test_a_target_without_weight_does_not_make_a_model_ready() -> None:
    view = directory("m@2", m=deployment(weights={1: 100, 2: 0}))
    assert outcome(view, "m").startswith("ModelNotReady")
    assert outcome(view, "m@2") == "ready"


def test_the_index_lists_every_version() -> None:
    states = [(s.version, s.state, s.reason) for s in directory("m@2").all_states()]
    assert states == [
        (1, "LOADING", NOT_READY),
        (2, "READY", ""),
        (3, "LOADING", NOT_READY),
    ]


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("m", "", ModelReference("m")),
        ("m@3", "", ModelReference("m", version=3)),
        ("m", "3", ModelReference("m", version=3)),
        ("m", "champion", ModelReference("m", alias="champion")),
        ("m@3", "3", ModelReference("m", version=3)),
        ("m@champion", "champion", ModelReference("m", alias="champion")),
    ],
)
def test_a_version_may_stand_in_the_name_or_apart(name, version, expected) -> None:
    assert parse_reference(name, version) == expected


@pytest.mark.parametrize(
    ("name", "version", "kind", "field"),
    [
        ("", "", InvalidArgument, "model"),
        ("m@3", "4", InvalidArgument, "version"),
        ("m@champion", "3", InvalidArgument, "version"),
        ("m", "3.5", InvalidArgument, "version"),
        ("No Such", "", ModelNotFound, None),
        ("m@", "", ModelNotFound, None),
        ("x" * 500, "", ModelNotFound, None),
    ],
)
def test_a_reference_that_cannot_be(name, version, kind, field) -> None:
    with pytest.raises(kind) as caught:
        parse_reference(name, version)
    assert caught.value.field == field
    assert len(caught.value.message) < 400


def test_the_wrong_task_names_the_model() -> None:
    manifest = deployment().versions[1].manifest
    require_task(ModelReference("m"), manifest, "tensor")
    with pytest.raises(InvalidArgument, match="'m' serves tensor") as caught:
        require_task(ModelReference("m"), manifest, "text-generation")
    assert caught.value.field == "model"


def entry(value: bytes) -> KvEntry:
    return KvEntry(value, 1)


def test_a_broken_document_keeps_the_last_good_form() -> None:
    watch = DirectoryWatch()
    key = f"{DEPLOYMENTS_PREFIX}m"
    watch.take_instances((Instance("i", "inference", "h", 1, frozenset({"m@1"})),))
    watch.take_deployments({key: entry(deployment().to_json())})
    before = watch.now
    assert outcome(before, "m") == "ready"
    watch.take_deployments({key: entry(b"{broken")})
    assert outcome(watch.now, "m") == "ready"
    watch.take_deployments({f"{DEPLOYMENTS_PREFIX}n": entry(b"{broken")})
    with pytest.raises(ModelNotFound):
        watch.now.resolve(ModelReference("m"))
    assert outcome(before, "m") == "ready"  # a view once taken never changes


def test_a_node_that_goes_takes_its_versions_along() -> None:
    watch = DirectoryWatch()
    watch.take_deployments({f"{DEPLOYMENTS_PREFIX}m": entry(deployment().to_json())})
    watch.take_instances((Instance("i", "inference", "h", 1, frozenset({"m@1"})),))
    watch.take_instances(())
    with pytest.raises(ModelNotReady, match="no inference node is up"):
        watch.now.resolve(ModelReference("m"))
    assert "ready: nothing" in repr(watch)
