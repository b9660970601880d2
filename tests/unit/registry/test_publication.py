"""What has to change in Consul so that it says what SQL says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.catalog import KvDelete, KvEntry, KvPut
from mesh.deployment import DEPLOYMENTS_PREFIX, Deployment, TargetSpec, VersionSpec
from mesh.manifest import Manifest
from services.registry.publication import differences

MANIFEST = Manifest(name="m", task="tensor", format="identity")
SPEC = VersionSpec(version=1, digest="a" * 64, manifest=MANIFEST, files=())
MODELS = ["a", "ab", "b"]


def document(model: str, revision: int) -> Deployment:
    return Deployment(
        model=model,
        revision=revision,
        replicas=1,
        targets=(TargetSpec(version=1, weight=1),),
        aliases={},
        versions={1: SPEC},
    )


wishes = st.dictionaries(st.sampled_from(MODELS), st.one_of(st.none(), st.integers(1, 3)))


@given(wishes, st.dictionaries(st.sampled_from([*MODELS, "foreign"]), st.integers(1, 3)))
def test_after_the_changes_consul_says_what_sql_says(
    wishes: dict[str, int | None], told: dict[str, int]
) -> None:
    wanted = {
        model: None if revision is None else document(model, revision)
        for model, revision in wishes.items()
    }
    published = {
        DEPLOYMENTS_PREFIX + model: KvEntry(document(model, revision).to_json(), 10 + revision)
        for model, revision in told.items()
    }
    after = {key: entry.value for key, entry in published.items()}
    for model, change in differences(published, wanted).items():
        key = DEPLOYMENTS_PREFIX + model
        known = published.get(key)
        assert (change.key, change.modify_index) == (key, known.modify_index if known else 0)
        if isinstance(change, KvDelete):
            del after[key]
        else:
            assert after.get(key) != change.value
            after[key] = change.value
    for model, doc in wanted.items():
        assert after.get(DEPLOYMENTS_PREFIX + model) == (None if doc is None else doc.to_json())
    for model in told.keys() - wanted.keys():
        assert DEPLOYMENTS_PREFIX + model in after


def test_what_is_no_document_is_replaced() -> None:
    wanted = {"a": document("a", 2)}
    changes = differences({DEPLOYMENTS_PREFIX + "a": KvEntry(b"{}", 7)}, wanted)
    assert changes == {"a": KvPut(DEPLOYMENTS_PREFIX + "a", wanted["a"].to_json(), 7)}
