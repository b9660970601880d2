"""The rules, each in a transaction of a database in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import create_engine

from mesh.errors import FailedPrecondition, ModelNotFound, NotFound
from services.registry import changes
from services.registry.artefact import make_artefact
from services.registry.records import Target
from services.registry.storage.ledger import Ledger
from services.registry.storage.tables import metadata

MANIFEST = json.dumps({"name": "m", "task": "tensor", "format": "identity"})


def artefact(content: int):
    return make_artefact(MANIFEST, [("weights", f"{content:064x}", 1)])


def open_ledger() -> Iterator[Ledger]:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        yield Ledger(connection)
    engine.dispose()


ledger = pytest.fixture(open_ledger)


def test_a_version_is_found_by_number_alias_and_as_the_newest(ledger: Ledger) -> None:
    made = [changes.create_version(ledger, artefact(n), f"take {n}", n) for n in (1, 2)]
    changes.set_alias(ledger, "m", "champion", 1)
    assert changes.find_version(ledger, "m", 1) == made[0]
    assert changes.find_version(ledger, "m", "champion") == made[0]
    assert changes.find_version(ledger, "m", None) == made[1]
    assert (made[1].description, made[1].created_unix_ms) == ("take 2", 2)


def test_what_does_not_exist_is_not_found(ledger: Ledger) -> None:
    changes.create_version(ledger, artefact(1), "", 0)
    with pytest.raises(ModelNotFound):
        changes.find_model(ledger, "other")
    with pytest.raises(ModelNotFound):
        changes.set_alias(ledger, "m", "champion", 2)
    with pytest.raises(ModelNotFound):
        changes.delete_alias(ledger, "m", "champion")
    with pytest.raises(ModelNotFound):
        changes.set_deployment(ledger, "other", [Target(1, 1)], 1)
    with pytest.raises(NotFound):
        changes.find_deployment(ledger, "m")
    with pytest.raises(NotFound):
        changes.delete_deployment(ledger, "m")


def test_an_alias_that_is_there_already_makes_no_revision(ledger: Ledger) -> None:
    changes.create_version(ledger, artefact(1), "", 0)
    changes.set_deployment(ledger, "m", [Target(1, 1)], 1)
    changes.set_alias(ledger, "m", "champion", 1)
    changes.set_alias(ledger, "m", "champion", 1)
    assert changes.find_deployment(ledger, "m").revision == 2


def test_paging_is_part_of_what_is_asked_and_stays_when_an_alias_moves(ledger: Ledger) -> None:
    for number in (1, 2):
        changes.create_version(ledger, artefact(number), "", 0)
    changes.set_alias(ledger, "m", "champion", 1)
    targets = [Target("champion", 1)]
    assert not changes.set_deployment(ledger, "m", targets, 1).may_page
    changed = changes.set_deployment(ledger, "m", targets, 1, may_page=True)
    assert (changed.may_page, changed.revision) == (True, 2)
    assert changes.set_deployment(ledger, "m", targets, 1, may_page=True).revision == 2
    changes.set_alias(ledger, "m", "champion", 2)
    document = changes.wanted_documents(ledger)["m"]
    assert document is not None
    assert (document.may_page, document.revision) == (True, 3)


def test_a_deleted_deployment_is_told_as_such(ledger: Ledger) -> None:
    changes.create_version(ledger, artefact(1), "", 0)
    assert changes.wanted_documents(ledger) == {}
    changes.set_deployment(ledger, "m", [Target(1, 1)], 1)
    changes.delete_deployment(ledger, "m")
    assert changes.wanted_documents(ledger) == {"m": None}
    assert changes.wanted_documents(ledger, "m") == {"m": None}
    changes.set_alias(ledger, "m", "champion", 1)
    assert changes.wanted_documents(ledger) == {"m": None}


class RegistryMachine(RuleBasedStateMachine):
    """Whatever is done in whatever order: numbers grow, and what should serve is whole."""

    @initialize()
    def open(self) -> None:
        self.opened = open_ledger()
        self.ledger = next(self.opened)
        self.digests: dict[str, int] = {}
        self.revision = 0
        changes.create_version(self.ledger, artefact(0), "", 0)

    @rule(content=st.integers(0, 5))
    def create(self, content: int) -> None:
        made = changes.create_version(self.ledger, artefact(content), "", 0)
        known = self.digests.setdefault(made.spec.digest, made.spec.version)
        assert made.spec.version == known

    @rule(alias=st.sampled_from("ab"), version=st.integers(1, 6))
    def set_alias(self, alias: str, version: int) -> None:
        try:
            model = changes.set_alias(self.ledger, "m", alias, version)
        except ModelNotFound:
            assert version not in changes.find_model(self.ledger, "m").versions
        else:
            assert model.aliases[alias] == version

    @rule(alias=st.sampled_from("ab"))
    def delete_alias(self, alias: str) -> None:
        try:
            assert alias not in changes.delete_alias(self.ledger, "m", alias).aliases
        except ModelNotFound:
            assert alias not in changes.find_model(self.ledger, "m").aliases
        except FailedPrecondition:
            targets = changes.find_deployment(self.ledger, "m").targets
            assert alias in {target.selector for target in targets}

    @rule(
        wished=st.lists(
            st.builds(Target, st.one_of(st.integers(1, 6), st.sampled_from("ab")), st.just(1)),
            min_size=1,
            max_size=3,
            unique_by=lambda target: target.selector,
        )
    )
    def deploy(self, wished: list[Target]) -> None:
        model = changes.find_model(self.ledger, "m")
        known = {*model.versions, *model.aliases}
        if {target.selector for target in wished} <= known:
            record = changes.set_deployment(self.ledger, "m", wished, 1)
            assert record.targets == tuple(wished)
        else:
            with pytest.raises(ModelNotFound):
                changes.set_deployment(self.ledger, "m", wished, 1)

    @rule()
    def undeploy(self) -> None:
        record = self.ledger.deployment("m")
        if record is not None and not record.is_deleted:
            changes.delete_deployment(self.ledger, "m")

    @invariant()
    def numbers_grow_and_what_should_serve_is_whole(self) -> None:
        versions = changes.find_model(self.ledger, "m").versions
        assert versions == tuple(range(1, len(versions) + 1))
        record = self.ledger.deployment("m")
        if record is not None:
            assert record.revision >= self.revision
            self.revision = record.revision
        document = changes.wanted_documents(self.ledger, "m").get("m")
        assert (document is None) == (record is None or record.is_deleted)

    def teardown(self) -> None:
        if hasattr(self, "opened"):
            next(self.opened, None)


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
