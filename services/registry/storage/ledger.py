"""What can be read and written inside one transaction, in the registry's own terms.

A ledger decides nothing: the rules are in `changes`, which is why they can be read without SQL.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, cast

from pydantic import TypeAdapter
from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from mesh.deployment import ArtefactFile, VersionSpec
from mesh.manifest import Manifest, Task
from services.registry.artefact import Artefact
from services.registry.records import DeploymentRecord, ModelRecord, Target, VersionRecord
from services.registry.storage.tables import aliases, deployments, models, versions

_FILES: TypeAdapter[tuple[ArtefactFile, ...]] = TypeAdapter(tuple[ArtefactFile, ...])


class Ledger:
    """The registry's content as one transaction sees it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def lock_model(self, name: str) -> ModelRecord | None:
        """The model, which no other transaction changes until this one ends."""
        self._connection.execute(
            select(models.c.name).where(models.c.name == name).with_for_update()
        )
        return self.model(name)

    def model(self, name: str) -> ModelRecord | None:
        """The model of this name, or None."""
        found = self._models(select(models).where(models.c.name == name))
        return found[0] if found else None

    def models(self) -> list[ModelRecord]:
        """All models, by name."""
        return self._models(select(models).order_by(models.c.name))

    def add_model(self, name: str, task: Task) -> ModelRecord:
        """A new model without versions."""
        self._connection.execute(
            insert(models).values(name=name, task=task, last_version=0, last_revision=0)
        )
        return ModelRecord(name, task, (), {})

    def version(self, model: str, version: int) -> VersionRecord | None:
        """One version, or None."""
        query = select(versions).where(versions.c.model == model, versions.c.version == version)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else _version(row)

    def version_of_digest(self, model: str, digest: str) -> VersionRecord | None:
        """The version that has this artefact already, or None."""
        query = select(versions).where(versions.c.model == model, versions.c.digest == digest)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else _version(row)

    def specs(self, model: str, wanted: Collection[int]) -> dict[int, VersionSpec]:
        """The artefacts of these versions, by number."""
        query = select(versions).where(
            versions.c.model == model, versions.c.version.in_(sorted(wanted))
        )
        return {row.version: _version(row).spec for row in self._connection.execute(query)}

    def add_version(
        self, model: str, artefact: Artefact, description: str, created_unix_ms: int
    ) -> VersionRecord:
        """The model's next version."""
        number = self._count(model, "last_version")
        self._connection.execute(
            insert(versions).values(
                model=model,
                version=number,
                digest=artefact.digest,
                manifest=artefact.manifest.to_json().decode(),
                files=_FILES.dump_json(artefact.files).decode(),
                description=description,
                created_unix_ms=created_unix_ms,
            )
        )
        spec = VersionSpec(
            version=number,
            digest=artefact.digest,
            manifest=artefact.manifest,
            files=artefact.files,
        )
        return VersionRecord(model, spec, description, created_unix_ms)

    def put_alias(self, model: str, alias: str, version: int) -> None:
        """Points the alias at the version."""
        self.remove_alias(model, alias)
        self._connection.execute(insert(aliases).values(model=model, alias=alias, version=version))

    def remove_alias(self, model: str, alias: str) -> None:
        """Forgets the alias if it is there."""
        self._connection.execute(
            delete(aliases).where(aliases.c.model == model, aliases.c.alias == alias)
        )

    def deployment(self, model: str) -> DeploymentRecord | None:
        """The model's deployment, also a deleted one; None if there never was one."""
        query = select(deployments).where(deployments.c.model == model)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else _deployment(row)

    def deployments(self) -> list[DeploymentRecord]:
        """All deployments, also deleted ones, by model."""
        query = select(deployments).order_by(deployments.c.model)
        return [_deployment(row) for row in self._connection.execute(query)]

    def put_deployment(
        self, model: str, replicas: int, targets: Sequence[Target], *, may_page: bool
    ) -> DeploymentRecord:
        """Replaces the model's deployment, under the next revision."""
        revision = self._count(model, "last_revision")
        listed = json.dumps([[target.selector, target.weight] for target in targets])
        self._connection.execute(delete(deployments).where(deployments.c.model == model))
        self._connection.execute(
            insert(deployments).values(
                model=model,
                revision=revision,
                replicas=replicas,
                targets=listed,
                may_page=may_page,
            )
        )
        return DeploymentRecord(model, revision, replicas, tuple(targets), may_page)

    def _count(self, model: str, counter: str) -> int:
        column = models.c[counter]
        counted = self._connection.execute(
            update(models).where(models.c.name == model).values({column: column + 1})
            .returning(column)
        )  # fmt: skip
        return cast("int", counted.scalar_one())

    def _models(self, query: Select[Any]) -> list[ModelRecord]:
        rows = self._connection.execute(query).all()
        names = [row.name for row in rows]
        numbers = self._numbers(names)
        named = self._aliases(names)
        return [
            ModelRecord(row.name, row.task, tuple(numbers[row.name]), named[row.name])
            for row in rows
        ]

    def _numbers(self, names: Collection[str]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {name: [] for name in names}
        query = select(versions.c.model, versions.c.version).where(versions.c.model.in_(names))
        for row in self._connection.execute(query.order_by(versions.c.version)):
            found[row.model].append(row.version)
        return found

    def _aliases(self, names: Collection[str]) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {name: {} for name in names}
        query = select(aliases).where(aliases.c.model.in_(names)).order_by(aliases.c.alias)
        for row in self._connection.execute(query):
            found[row.model][row.alias] = row.version
        return found


def _version(row: Row[Any]) -> VersionRecord:
    spec = VersionSpec(
        version=row.version,
        digest=row.digest,
        manifest=Manifest.model_validate_json(row.manifest),
        files=_FILES.validate_json(row.files),
    )
    return VersionRecord(row.model, spec, row.description, row.created_unix_ms)


def _deployment(row: Row[Any]) -> DeploymentRecord:
    targets = tuple(Target(selector, weight) for selector, weight in json.loads(row.targets))
    return DeploymentRecord(row.model, row.revision, row.replicas, targets, row.may_page)
